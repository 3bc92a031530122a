"""The learned marginal map of pixels against scipy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from tf_iresnet.layers.gaussianization import MarginalGaussianization

pytestmark = pytest.mark.quick

LEVELS, ALPHA = 6, 1e-3


@pytest.fixture
def layer():
    layer = MarginalGaussianization(LEVELS, ALPHA, dtype="float64")
    layer.build((None, 4))
    layer.logits.assign(np.random.default_rng(0).normal(size=LEVELS) * 2)
    return layer


def pixels(rows=50):
    return np.random.default_rng(1).uniform(0, LEVELS, (rows, 4))


def distribution(layer, x):
    """F by linear interpolation between the cumulated weights."""
    logits = layer.logits.numpy()
    weights = np.exp(logits) / np.exp(logits).sum()
    heights = ALPHA + (1 - 2 * ALPHA) * np.concatenate([[0.0], np.cumsum(weights)])
    return np.interp(x, np.arange(LEVELS + 1), heights)


def test_the_map_is_the_normal_quantile_of_the_distribution(layer):
    x = pixels()
    np.testing.assert_allclose(layer(x), stats.norm.ppf(distribution(layer, x)), atol=1e-9)


def test_the_log_determinant_is_that_of_differences(layer):
    x, step = pixels(), 1e-7
    x = np.floor(x) + np.clip(x - np.floor(x), 0.01, 0.99)  # a difference must not cross a level
    slopes = (layer(x + step) - layer(x - step)).numpy() / (2 * step)
    np.testing.assert_allclose(
        layer.forward_and_log_det(x)[1], np.log(slopes).sum(axis=1), rtol=1e-6
    )


def test_pixels_of_a_normal_latent_have_the_density_of_the_histogram(layer):
    """Under N(0, 1) the density of x is F'(x), and all of it is 1 - 2 alpha."""
    layer = MarginalGaussianization.from_config(layer.get_config())
    layer.build((None, 1))

    def density(x):
        y, log_det = layer.forward_and_log_det(np.array([[x]]))
        return float(np.exp(log_det[0])) * stats.norm.pdf(float(y[0, 0]))

    total, _ = integrate.quad(density, 0, LEVELS, points=range(1, LEVELS))
    assert total == pytest.approx(1 - 2 * ALPHA, abs=1e-8)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float64", 1e-11)])
def test_the_inverse_finds_the_pixels(dtype, error):
    layer = MarginalGaussianization(256, dtype=dtype)
    x = np.random.default_rng(2).choice([0, 0, 0, 1, 40, 254, 255], (64, 30))
    x = (x + np.random.default_rng(3).uniform(0.001, 0.999, x.shape)).astype(dtype)
    layer.adapt(x)
    y = layer(x)
    np.testing.assert_allclose(layer.inverse(y), x, atol=error * 256)


def test_initialisation_takes_the_histogram_and_gives_a_normal_marginal():
    rng = np.random.default_rng(4)
    x = (rng.choice(LEVELS, (500, 40), p=[0.7, 0.1, 0.05, 0.05, 0.05, 0.05])) + rng.random(
        (500, 40)
    )
    layer = MarginalGaussianization(LEVELS, dtype="float64")
    layer.adapt(x)
    y = layer(x).numpy()
    shares = np.bincount(np.floor(x).astype(int).ravel(), minlength=LEVELS) / x.size
    np.testing.assert_allclose(tf.nn.softmax(layer.logits), shares, atol=0.01)
    # 20,000 draws: a distance of 0.025 has a chance below 1e-10.
    assert stats.kstest(y.ravel(), "norm").statistic < 0.025


def test_levels_that_never_came_keep_a_weight():
    layer = MarginalGaussianization(256)
    layer.adapt(np.full((2, 3), 7.5, "float32"))
    y = layer(np.array([[0.5, 255.5, 255.99]], "float32"))
    assert np.isfinite(y).all()


def test_every_weight_of_the_histogram_learns(layer):
    x = tf.constant(pixels(200))
    with tf.GradientTape() as tape:
        y, log_det = layer.forward_and_log_det(x)
        loss = tf.reduce_mean(log_det - 0.5 * tf.reduce_sum(y**2, axis=1))
    (gradient,) = tape.gradient(loss, [layer.logits.value])
    step = 1e-6
    for level in range(LEVELS):
        values = []
        for sign in (1, -1):
            layer.logits.assign_add(sign * step * np.eye(LEVELS)[level])
            y, log_det = layer.forward_and_log_det(x)
            values.append(float(tf.reduce_mean(log_det - 0.5 * tf.reduce_sum(y**2, axis=1))))
            layer.logits.assign_sub(sign * step * np.eye(LEVELS)[level])
        assert float(gradient[level]) == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8
        )


def test_serialisation_keeps_the_map(layer, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "map.keras")
    again = keras.saving.load_model(tmp_path / "map.keras")
    np.testing.assert_array_equal(again(pixels()), model(pixels()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"levels": 1}, "levels.*1"),
        ({"alpha": 0.5}, "alpha.*0.5"),
        ({"levels": 2.5}, "levels.*2.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        MarginalGaussianization(**arguments)
