"""What every test and every example in a docstring begins with, and what a run ends with."""

import collections
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

# Another one shows whether a result holds for other draws: TEST_SEED=1 make test
SEED = int(os.environ.get("TEST_SEED", "0"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    # Before fixtures, so that theirs are the same whichever test asks for them first.
    keras.utils.set_random_seed(SEED)


@pytest.fixture(scope="session")
def common_seed() -> int:
    """The random seed of every test."""
    return SEED


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(np=np, tf=tf)


def pytest_collection_modifyitems(items):
    """Examples in docstrings are quick."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.quick)


def _room(nodeid: str) -> str:
    """The folder that a test is about: tests/library/layers is about tf_iresnet/layers."""
    *folders, _ = nodeid.partition("::")[0].split("/")
    room = "/".join(folders)
    return room.replace("tests/library", "tf_iresnet").replace("tests/training", "training")


def pytest_terminal_summary(terminalreporter):
    """Says in which rooms tests failed."""
    reports = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    rooms = collections.Counter(_room(report.nodeid) for report in reports)
    if rooms:
        terminalreporter.section("rooms with failures", sep="=")
    for room, count in sorted(rooms.items()):
        terminalreporter.line(f"{room}/  {count} failed")
