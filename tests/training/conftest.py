"""A run that many tests read, and devices that commands in the tests' process share."""

import shutil

import pytest

from tests.library.eager import eagerly
from tests.library.mirrored import mirrored
from tests.training.tiny_runs import tiny
from training.loop.train import train
from training.workers import devices

devices._mirrored = mirrored


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run of five steps, with checkpoints after two, four and five; nothing may change it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with eagerly():
        train(tiny(), folder, command="a command", verbose=0)
    return folder


@pytest.fixture
def digits_copy(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "copy")
