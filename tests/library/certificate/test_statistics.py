"""Mean and variance of estimated log-determinants, against what is known of the estimators."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import jacobians
from tf_iresnet import certify, randomness
from tf_iresnet.certificate.variance import InfiniteVarianceWarning, log_det_statistics
from tf_iresnet.layers import ActNorm, InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette


def block(dtype="float64", **arguments):
    layer = InvertibleResidual(hidden=8, kernel_sizes=(1, 1), dtype=dtype, **arguments)
    layer.build((None, 4))
    return layer


X = np.random.default_rng(0).standard_normal((3, 4))


def test_the_variance_is_hutchinsons():
    """One Rademacher probe of tr(J): the variance is twice the squares off the diagonal.

    Its estimate's relative error is near sqrt(2 / 1500) = 0.037, or somewhat more for tails that
    are not normal; five of these make a level of 1e-4.
    """
    layer = block(coeff=0.97, log_det=PowerSeries(1))
    draw = tf.function(lambda x: log_det_statistics(layer, x, seed=3, draws=1500), autograph=False)
    statistics = draw(tf.constant(X))
    j = jacobians(layer.forward, X) - np.eye(4)
    symmetric = (j + j.transpose(0, 2, 1)) / 2
    off = 2 * (np.square(symmetric).sum((1, 2)) - np.square(np.einsum("kii->ki", j)).sum(1))
    np.testing.assert_allclose(statistics.variance, off, rtol=0.2)
    errors = np.sqrt(statistics.variance / 1500)
    assert (np.abs(statistics.mean - np.einsum("kii->k", j)) < 4 * errors).all()


def test_an_exact_estimator_has_none():
    layer = block(log_det=Exact())
    statistics = log_det_statistics(layer, X, draws=2)
    np.testing.assert_array_equal(statistics.variance, np.zeros(3))
    expected = np.linalg.slogdet(jacobians(layer.forward, X))[1]
    np.testing.assert_allclose(statistics.mean, expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::tf_iresnet.certificate.variance.InfiniteVarianceWarning")
def test_draws_are_those_of_the_seed():
    layer = block(dtype="float32")
    first, again, other = (log_det_statistics(layer, X, seed=s, draws=4) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.variance, again.variance)
    assert np.abs(first.mean - other.mean).max() > 1e-4
    seeds = [randomness.fold_in(randomness.as_seed(1), draw) for draw in range(4)]
    values = [layer.forward_and_log_det(X, seed)[1] for seed in seeds]
    np.testing.assert_allclose(first.mean, np.mean(values, 0), rtol=1e-5)
    np.testing.assert_allclose(first.variance, np.var(values, 0, ddof=1), rtol=1e-4)
    assert first.mean.dtype == first.variance.dtype == tf.float32
    graph = tf.function(lambda x: log_det_statistics(layer, x, seed=1, draws=4))
    np.testing.assert_allclose(graph(X.astype("float32")).mean, first.mean, atol=1e-5)


def test_a_bound_that_allows_infinite_variance_is_named():
    roulette = RussianRoulette(probability=0.5)  # finite below sqrt(0.5)
    layers = [block(coeff=0.8, name="small"), ActNorm(dtype="float64")]
    flow = InvertibleSequential([*layers, block(coeff=0.99, name="large")], dtype="float64")
    flow.build((None, 4))
    for layer in flow.layers[::2]:
        for part in layer.branch.parts:
            if hasattr(part, "kernel"):
                part.kernel.assign(5 * part.kernel)  # up to its bound
    flow.converge_spectral_state()
    with pytest.warns(InfiniteVarianceWarning, match=r"large: .*0\.98.*probability=0\.5") as seen:
        statistics = log_det_statistics(flow, X, seed=0, log_det=roulette, draws=2)
    assert len(seen) == 1
    assert not statistics.proven_finite


def test_a_certificate_is_taken_for_granted(monkeypatch, recwarn):
    layer = block(coeff=0.9)
    certificate = certify(layer)
    monkeypatch.setattr("tf_iresnet.certificate.variance.certify", None)
    statistics = log_det_statistics(
        layer, X, seed=0, log_det=RussianRoulette(probability=0.1), draws=2, certificate=certificate
    )
    assert statistics.proven_finite
    assert not [w for w in recwarn if w.category is InfiniteVarianceWarning]


def test_a_branch_without_a_bound_is_no_proof():
    layer = InvertibleResidual(keras.layers.Dense(4), coeff=None, log_det=PowerSeries(2))
    layer.build((None, 4))
    with pytest.warns(InfiniteVarianceWarning, match="nothing excludes an infinite variance"):
        log_det_statistics(layer, X.astype("float32"), seed=0, draws=2)


def test_finite_variances_need_no_warning(recwarn):
    layer = block(coeff=0.9)
    for estimator in (PowerSeries(3), RussianRoulette(probability=0.3), Exact()):
        log_det_statistics(layer, X, seed=0, log_det=estimator, draws=2)
    assert not [w for w in recwarn if w.category is InfiniteVarianceWarning]


@pytest.mark.parametrize("draws", [1, 2.5, True])
def test_too_few_draws(draws):
    with pytest.raises(ValueError, match=rf"draws must be an integer of at least 2, got {draws}"):
        log_det_statistics(block(), X, draws=draws)
