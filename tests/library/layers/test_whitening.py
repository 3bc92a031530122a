"""Whitening of channels, against NumPy's covariances."""

import numpy as np
import pytest
import tensorflow as tf

from tf_iresnet.layers import InjectivePadding, InvertibleSequential, Squeeze, Whitening

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(np.random.get_bit_generator())  # begun anew by each test
MIX = np.array([[3.0, 2.9, 0.1], [0.0, 0.2, 1.0], [0.5, 0.5, -0.02]])


def mixed(*shape, dtype="float64"):
    return (RNG.standard_normal((*shape, len(MIX))) @ MIX + 5.0).astype(dtype)


def regularised(x, ridge):
    covariance = np.cov(x.reshape(-1, x.shape[-1]).T, bias=True)
    return covariance + ridge * np.diag(np.diag(covariance))


@pytest.mark.parametrize("how", ["adapt", "call", "graph"])
def test_the_first_batch_becomes_white(how):
    layer, x = Whitening(ridge=1e-3, dtype="float64"), mixed(40, 2)
    if how == "adapt":
        layer.adapt(x)
        y = layer(x)
    else:
        layer.build(x.shape)
        call = tf.function(layer) if how == "graph" else layer
        y = call(tf.constant(x), training=True)
    np.testing.assert_allclose(np.mean(y, (0, 1)), 0.0, atol=1e-12)
    matrix = layer.matrix.numpy()
    np.testing.assert_array_equal(matrix, np.tril(matrix))
    whitened = matrix @ regularised(x, 1e-3) @ matrix.T
    np.testing.assert_allclose(whitened, np.eye(3), atol=1e-10)
    _, log_det = layer.forward_and_log_det(x)
    _, wanted = np.linalg.slogdet(regularised(x, 1e-3))
    np.testing.assert_allclose(log_det, -wanted, rtol=1e-10)  # 2 pixels, half of each


def test_it_is_set_once():
    layer = Whitening()
    layer.adapt(mixed(40, 2, dtype="float32"))
    kept = [v.numpy() for v in layer.variables]
    layer(mixed(40, 2, dtype="float32"), training=True)
    for variable, value in zip(layer.variables, kept, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert not layer.needs_data


def test_later_batches_need_not_be_finite():
    layer = Whitening()
    layer.adapt(mixed(40, 2, dtype="float32"))
    y = layer(np.full((2, 2, 3), np.nan, "float32"), training=True)
    assert np.isnan(y).all()
    assert np.isfinite(layer.matrix).all()


def test_nothing_in_it_is_trained():
    layer = Whitening()
    layer.build((None, 3))
    assert layer.trainable_weights == []


@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_the_ridge_limits_the_amplification(ridge):
    """Two equal channels: only the ridge keeps the matrix finite."""
    x = np.repeat(RNG.standard_normal((500, 1)), 2, axis=1)
    layer = Whitening(ridge, dtype="float64")
    layer.adapt(x)
    gain = np.linalg.norm(layer.matrix, 2) * np.std(x)
    assert 0.7 < gain * np.sqrt(ridge) < 1 + 1e-9


def test_constant_channels_keep_their_scale():
    x = mixed(50, dtype="float32")
    x[:, 1] = 7.0
    layer = Whitening()
    layer.adapt(x)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y[:, 1], 0.0)
    np.testing.assert_array_equal(layer.matrix[1], [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(np.asarray(layer.matrix)[:, 1], [0.0, 1.0, 0.0])
    np.testing.assert_allclose(layer.inverse(y), x, atol=1e-5)


def test_padded_images_come_back():
    layers = InvertibleSequential([InjectivePadding(1), Squeeze(), Whitening()])
    x = RNG.uniform(size=(20, 4, 4, 2)).astype("float32")
    layers.adapt(x)
    y = layers(x)
    np.testing.assert_allclose(layers.inverse(y), x, atol=1e-5)


def shrunk(x, ridge):
    """C with the correlations of few rows shrunk, by the formula of Chen et al., equation 23."""
    n, p = x.shape
    scale = x.std(0)
    correlations = np.corrcoef(x.T)
    squares = np.trace(correlations @ correlations)
    rho = ((1 - 2 / p) * squares + p**2) / ((n + 1 - 2 / p) * (squares - p))
    assert 0 < rho < 1
    correlations = (1 - rho) * correlations + (rho + ridge) * np.eye(p)
    return correlations * np.outer(scale, scale)


@pytest.mark.parametrize("rows", [12, 25])
def test_few_rows_shrink_the_correlations(rows):
    x = RNG.standard_normal((rows, 12)) @ RNG.standard_normal((12, 12)) + 3.0
    constant = np.insert(x, 4, 7.0, axis=1)  # has no say
    layer = Whitening(ridge=1e-3, dtype="float64")
    if rows == 12:
        with pytest.warns(UserWarning, match="12 values of each of its 13 channels.*adapt"):
            layer.adapt(constant)
    else:
        layer.adapt(constant)
    matrix = layer.matrix.numpy()
    np.testing.assert_array_equal(matrix[4], np.eye(13)[4])
    matrix = np.delete(np.delete(matrix, 4, 0), 4, 1)
    np.testing.assert_allclose(matrix @ shrunk(x, 1e-3) @ matrix.T, np.eye(12), atol=1e-9)


@pytest.mark.parametrize("rows", [2, 20, 50])
def test_rows_not_seen_come_out_near_their_size(rows):
    """Fifty channels: without shrinking, the variance is above 1,000 for 20 rows and for 50."""
    mix = RNG.standard_normal((50, 50)) * np.logspace(-2, 2, 50)
    x = RNG.standard_normal((2000, 50)) @ mix.T
    layer = Whitening(dtype="float64")
    with pytest.warns(UserWarning, match="too few"):
        layer.adapt(x[:rows])
    if rows > 2:  # two rows do not tell even the scales
        assert np.mean(np.square(layer(x))) < 4


@pytest.mark.parametrize("how", ["adapt", "call"])
def test_a_single_row_is_only_shifted(how):
    x = mixed(1, dtype="float32")
    layer = Whitening()
    with pytest.warns(UserWarning, match="1 values of each"):
        layer.adapt(x) if how == "adapt" else layer(x, training=True)
    np.testing.assert_array_equal(layer.mean, x[0])
    np.testing.assert_array_equal(layer.matrix, np.eye(3))


def test_large_offsets_cost_nothing():
    x = (1e4 + 0.1 * RNG.standard_normal((4000, 2))).astype("float32")
    layer = Whitening()
    layer.adapt(x)
    y = layer(x)
    np.testing.assert_allclose(np.cov(y.numpy().T), np.eye(2), atol=2e-3)


@pytest.mark.parametrize("ridge", [0.0, -1.0, 1.5, float("nan")])
def test_a_ridge_out_of_range_is_refused(ridge):
    with pytest.raises(ValueError, match=r"ridge must be in \(0, 1\]"):
        Whitening(ridge)
