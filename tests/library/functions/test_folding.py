"""A chain with LipSwish' scales moved into its kernels is the same function."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import SEED
from tf_iresnet.functions import Affine, Chain, Function, ScaledSwish, Silu
from tf_iresnet.functions.linear_maps import ConvMap
from tf_iresnet.functions.sorting import PairSort
from tf_iresnet.log_det import PowerSeries

pytestmark = pytest.mark.quick


def branch(beta, dtype="float64"):
    """LipSwish before each of three convolutions; its parameters, and a batch."""
    rng = np.random.default_rng(0)
    parts, parameters = [], []
    for taps, inputs, outputs in ((3, 2, 4), (1, 4, 4), (3, 4, 2)):
        shape = (taps, taps, inputs, outputs)
        parts += [ScaledSwish(), Affine(ConvMap((3, 2), shape), True)]
        arrays = (np.array(beta), 0.2 * rng.standard_normal(shape), rng.standard_normal(outputs))
        parameters += [tf.constant(a, dtype) for a in arrays]
    return Chain(parts), parameters, tf.constant(rng.standard_normal((5, 3, 2, 2)), dtype)


def estimate(function, parameters, x):
    """The log-determinant's and the map's gradients in one."""
    arguments = [x, *parameters]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        g, value = PowerSeries(terms=4)(function, arguments[1:], arguments[0], SEED)
        total = tf.reduce_sum(value) + tf.reduce_sum(tf.sin(g))
    return g.numpy(), value.numpy(), [t.numpy() for t in tape.gradient(total, arguments)]


@pytest.mark.parametrize("beta", [-9.0, -3.0, 0.5, 6.0, 40.0])
def test_folding_changes_nothing(monkeypatch, beta):
    function, parameters, x = branch(beta)
    parts = function.fold(parameters)[0].parts
    assert [isinstance(part, Silu) for part in parts[::2]] == [False, True, True]
    g, value, gradients = estimate(function, parameters, x)
    monkeypatch.setattr(Chain, "fold", Function.fold)
    plain_g, plain_value, plain = estimate(function, parameters, x)
    np.testing.assert_allclose(g, plain_g, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(value, plain_value, rtol=1e-9, atol=1e-11)
    for own, expected in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("beta", [-200.0, -30.0, 200.0])
def test_extreme_slopes_stay_finite(beta):
    g, value, gradients = estimate(*branch(beta, "float32"))
    for array in (g, value, *gradients):
        assert np.isfinite(array).all()


def test_what_does_not_fit_is_left_alone():
    kernel = Affine(ConvMap((3, 2), (1, 1, 2, 2)), False)
    weights = tf.ones([1, 1, 2, 2])
    beta = tf.constant(0.5)
    cases = [
        (Chain([ScaledSwish(), kernel]), [beta, weights]),
        (Chain([kernel, ScaledSwish()]), [weights, beta]),
        (Chain([kernel, PairSort(), kernel]), [weights, weights]),
        (
            Chain([kernel, ScaledSwish(), kernel]),
            [tf.cast(p, tf.bfloat16) for p in (weights, beta, weights)],
        ),
    ]
    for chain, parameters in cases:
        folded, same = chain.fold(parameters)
        assert folded.parts == chain.parts
        assert all(a is b for a, b in zip(parameters, same, strict=True))
