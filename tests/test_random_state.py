"""What a test draws hangs on no other test."""

import os
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

SEED = int(os.environ.get("TEST_SEED", "0"))


def draws():
    rng = np.random.default_rng(np.random.get_bit_generator())
    kernel = keras.initializers.GlorotUniform()((2, 3))
    arrays = [random.random(), rng.normal(size=3), tf.random.normal([3]), kernel]
    return np.concatenate([np.ravel(array) for array in arrays]).tolist()


@pytest.fixture(scope="module")
def early():
    return draws()


@pytest.mark.parametrize("turn", [0, 1])
def test_each_test_begins_with_the_same_draws(turn):
    first = draws()
    keras.utils.set_random_seed(SEED)
    assert draws() == first


def test_a_shared_fixture_is_the_same_whichever_test_asks_first(early):
    keras.utils.set_random_seed(SEED)
    assert draws() == early
