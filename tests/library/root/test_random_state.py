"""What a test draws depends on no other test."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.quick


def draws():
    rng = np.random.default_rng(np.random.get_bit_generator())
    kernel = keras.initializers.GlorotUniform()((2, 3))
    arrays = [random.random(), rng.normal(size=3), tf.random.normal([3]), kernel]
    return np.concatenate([np.ravel(array) for array in arrays]).tolist()


@pytest.fixture(scope="module")
def early():
    return draws()


@pytest.mark.parametrize("turn", [0, 1])
def test_each_test_begins_with_the_same_draws(turn, common_seed):
    first = draws()
    keras.utils.set_random_seed(common_seed)
    assert draws() == first


def test_a_shared_fixture_is_the_same_whichever_test_asks_first(early, common_seed):
    keras.utils.set_random_seed(common_seed)
    assert draws() == early
