"""Series with a number of terms for each example: each sums its own, and then costs nothing."""

import numpy as np
import pytest
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.functions import Affine, Chain, Elementwise
from tf_iresnet.functions.linear_maps import DenseMap
from tf_iresnet.log_det import RussianRoulette

pytestmark = pytest.mark.quick


class Counted(Chain):
    """A chain that notes how many examples each product with J^T has."""

    def __init__(self, parts):
        super().__init__(parts)
        self.seen = []

    def fold(self, parameters):
        return self, parameters

    def vjp(self, parameters, residuals, cotangent):
        self.seen.append(len(cotangent))
        return super().vjp(parameters, residuals, cotangent)


class Draws(RussianRoulette):
    """A roulette of given draws N, [batch]."""

    def __init__(self, given, **options):
        super().__init__(**options)
        self._given = given

    def draw(self, seed):
        return tf.constant(self._given)


def small_chain():
    rng = np.random.default_rng(0)
    kernels = [tf.constant(0.4 * rng.standard_normal((3, 3))) for _ in range(2)]
    affine = Affine(DenseMap(3, 3), False)
    return [affine, Elementwise(tf.tanh), affine], kernels


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("longest", [3, 4, 10, 31])
def test_the_terms_of_each_example_are_its_own(longest, graph):
    """Values and gradients of a batch are those of each example alone, with the N that it drew."""
    parts, kernels = small_chain()
    x = tf.constant(np.random.default_rng(1).standard_normal((5, 3)))
    draws = [1, longest, 2, 3, longest - 1]
    keys = randomness.own_keys(randomness.as_seed(3), x)

    def estimate(draws, x, keys):
        estimator = Draws(draws, exact_terms=2, probability=0.4)
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            value = estimator(Chain(parts), kernels, x, keys)[1]
        return value, *tape.gradient(value, [x, *kernels])

    whole = tf.function(estimate, autograph=False) if graph else estimate
    value, by_x, *by_kernels = whole(draws, x, keys)
    # One N for a batch takes the plain loop, which is held to numpy's sums in test_log_det.
    alone = [estimate(n, x[i : i + 1], keys[i : i + 1]) for i, n in enumerate(draws)]
    close = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(value, [each[0][0] for each in alone], **close)
    np.testing.assert_allclose(by_x, [each[1][0] for each in alone], **close)
    for index, found in enumerate(by_kernels):
        np.testing.assert_allclose(found, sum(each[2 + index] for each in alone), **close)


def test_examples_that_have_ended_are_left_out():
    parts, kernels = small_chain()
    x = tf.constant(np.random.default_rng(1).standard_normal((40, 3)))
    keys = randomness.own_keys(randomness.as_seed(3), x)
    function, draws = Counted(parts), [50] + [1] * 39
    Draws(draws, exact_terms=2, probability=0.4)(function, kernels, x, keys)
    # Two products for all, what is left of a stage, and the rest for one.
    assert len(function.seen) == 51
    assert sum(function.seen) <= 40 * 2 + 6 * 40 + 50
    assert function.seen[-1] == 1
