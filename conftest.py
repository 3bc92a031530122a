"""What every test and every example in a docstring begins with."""

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
