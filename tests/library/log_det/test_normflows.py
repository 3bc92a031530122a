"""normflows' own numbers: map, inverse, log-determinants and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import SEED, Normflows, assert_all_close, value_and_gradients
from tf_iresnet import norms
from tf_iresnet.fixed_point import Picard, invert
from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette
from tf_iresnet.norms import estimates


@pytest.fixture(scope="module", params=["dense", "conv"])
def truth(request):
    """A branch and normflows' numbers for it."""
    return Normflows(request.param)


def test_the_map_is_normflows(truth):
    y = truth["x"] + truth.function(truth.parameters, tf.constant(truth["x"])).numpy()
    np.testing.assert_allclose(y, truth["y"], atol=1e-13)


def test_the_inverse_is_normflows(truth):
    y = tf.constant(truth["inverse_y"])
    x = invert(truth.function, truth.parameters, y, Picard()).checked()
    np.testing.assert_allclose(x, truth["inverse_x"], atol=1e-12)


@pytest.mark.parametrize("probe", [0, 1])
def test_truncated_values_are_normflows(truth, fixed, probe):
    fixed(truth["v"][probe])
    for index, terms in enumerate(truth["series_terms"]):
        value, _ = value_and_gradients(PowerSeries(terms=int(terms)), truth, truth["x"])
        np.testing.assert_allclose(value, truth["series_logdet"][index, probe], rtol=1e-10)


@pytest.mark.parametrize("probe", [0, 1])
def test_roulette_values_are_normflows(truth, fixed, probe):
    fixed(truth["v"][probe], int(truth["roulette_draw"]))
    estimator = RussianRoulette(exact_terms=2, probability=0.5)
    value, _ = value_and_gradients(estimator, truth, truth["x"])
    np.testing.assert_allclose(value, truth["roulette_logdet"][probe], rtol=1e-10)


# The gradient of sum_{k=1..n} (-1)^{k+1} w_k tr(J^k) / k is tr(sum_{k=0..n-1} (-1)^k w_{k+1} J^k
# dJ): with n products, ours is the gradient of the very expectation that the value estimates.
# normflows enters J^0 to J^n with w_0 .. w_n. For a series cut at n that is the gradient of the
# series cut at n + 1: nearer to the exact one, but of another function than the value. For the
# roulette both are unbiased, as E[w_k 1{term k is drawn}] = 1 either way. With one more term, or
# one more exact term at the same draw, ours must give normflows' numbers.
NEUMANN = {
    "truncated": PowerSeries(terms=5 + 1),
    "roulette": RussianRoulette(exact_terms=2 + 1, probability=0.5),
}


@pytest.mark.parametrize("probe", [0, 1])
@pytest.mark.parametrize(("kind", "estimator"), NEUMANN.items(), ids=NEUMANN.keys())
def test_neumann_gradients_are_normflows(truth, fixed, kind, estimator, probe):
    fixed(truth["v"][probe], int(truth["roulette_draw"]))
    _, gradients = value_and_gradients(estimator, truth, truth["x"])
    expected = [truth[f"{kind}_grad_{name}"][probe] for name in ["x", *truth.names]]
    assert_all_close(gradients, expected, rtol=1e-8, atol=1e-10)


def test_exact_is_normflows(truth):
    value, gradients = value_and_gradients(Exact(), truth, truth["x"])
    np.testing.assert_allclose(value, truth["logdet_exact"], rtol=1e-11)
    expected = [truth[f"exact_grad_{name}"] for name in ["x", *truth.names]]
    assert_all_close(gradients, expected, rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def singular(truth):
    """Each raw kernel's norm and leading vectors, by an iteration without end."""
    spatial_shape = truth["x"].shape[1:-1] or None
    iterate = tf.function(
        lambda k: norms.power_iteration(k, spatial_shape, iterations=4000, tolerance=0.0)
    )
    return [iterate(tf.constant(truth[f"raw_{name}"])) for name in truth.kernel_names]


@pytest.mark.parametrize("kind", ["truncated", "roulette", "exact"])
def test_gradients_of_raw_kernels_are_normflows(truth, singular, fixed, kind):
    fixed(truth["v"][0], int(truth["roulette_draw"]))
    raw = [tf.constant(truth[f"raw_{name}"]) for name in truth.kernel_names]
    spatial_shape = truth["x"].shape[1:-1] or None
    with tf.GradientTape() as tape:
        tape.watch(raw)
        parameters = truth.parameters
        for index, kernel in enumerate(raw):
            linear_map = map_for_kernel(tuple(kernel.shape), spatial_shape)
            sigma, u, v = singular[index]
            np.testing.assert_allclose(sigma, truth["sigma_svd"][index], rtol=1e-9)
            sigma = estimates.sigma_of(linear_map, kernel, u, v)
            parameters[3 * index + 1] = kernel * tf.minimum(1.0, truth["coeff"] / sigma)
        estimator = NEUMANN.get(kind, Exact())
        _, value = estimator(truth.function, parameters, tf.constant(truth["x"]), SEED)
        total = tf.reduce_sum(value)
    gradients = [g.numpy() for g in tape.gradient(total, raw)]
    expected = [truth[f"{kind}_grad_raw_{name}"] for name in truth.kernel_names]
    expected = expected if kind == "exact" else [e[0] for e in expected]
    assert_all_close(gradients, expected, rtol=1e-5, atol=1e-6)
