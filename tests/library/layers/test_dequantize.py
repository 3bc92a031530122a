"""Dequantisation: the layer, and what models make of integers and of floats that had none."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_digits

from tests.library import small_models as small
from tests.library.mirrored import mirrored
from tf_iresnet import randomness
from tf_iresnet.layers import ActNorm, Dequantize, InvertibleSequential
from tf_iresnet.log_det import Exact, PowerSeries
from tf_iresnet.models.training.pixels import are_scaled

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 8, (24, 4, 4, 1)).astype("uint8")
NOISY = (PIXELS + RNG.uniform(size=PIXELS.shape)).astype("float32")


# --- the layer ---


@pytest.mark.parametrize(
    ("levels", "dtype"), [(2, "float32"), (256, "float32"), (2**16, "float32")]
)
@pytest.mark.parametrize("training", [None, True])
def test_noise_is_uniform_exact_and_undone(levels, dtype, training):
    """A test of Kolmogorov and Smirnov on 20,000 draws, error rate 1e-6; the grid is far finer."""
    x = np.random.default_rng(1).integers(0, levels, (200, 100))
    x[:, 0], x[:, 1] = 0, levels - 1
    layer = Dequantize(levels)
    y = layer(x, training=training).numpy()
    noise = y.astype("float64") - x
    assert noise.min() > 0
    assert noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-6
    np.testing.assert_array_equal(layer.inverse(y), x)
    np.testing.assert_array_equal(layer.inverse([[-3.5, levels + 9.0]]), [[0, levels - 1]])
    # Neighbours have independent noise: correlations of 20,000 pairs, error rate 1e-6.
    for a, b in ((noise[:, :-1], noise[:, 1:]), (noise[:-1], noise[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4.9 / np.sqrt(19_800)


def test_noise_is_the_documented_function_of_random_words():
    words = np.random.default_rng(2).integers(0, 2**32, (3, 5), dtype="uint32")
    draws = words.view("uint16")[:, :9].astype("float64")  # little-endian, as TensorFlow's bitcast
    for bits in (15, 7, 1):
        grid = np.floor(draws / 2.0 ** (16 - bits))
        expected = (grid + 0.5) / 2.0**bits
        found = randomness.midpoints_of(tf.constant(words), tf.zeros((3, 9), tf.float64), bits)
        np.testing.assert_array_equal(found, expected)


def test_noise_belongs_to_the_example_and_its_seed():
    layer = Dequantize(8)
    whole, zero = layer.forward_and_log_det(PIXELS, seed=5)
    np.testing.assert_array_equal(zero, np.zeros(24))
    for first in (3, 17):
        part, _ = layer.forward_and_log_det(PIXELS[first:], seed=[0, 5, first])
        np.testing.assert_array_equal(part, whole[first:])
    compiled = tf.function(layer.forward_and_log_det, jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(tf.constant(PIXELS), tf.constant([0, 5, 0]))[0], whole)
    assert np.any(layer.forward_and_log_det(PIXELS, seed=6)[0] != whole)
    assert np.any(layer(PIXELS, training=True) != layer(PIXELS, training=True))
    np.testing.assert_array_equal(layer(PIXELS), layer(PIXELS))
    assert np.any(layer(PIXELS) != Dequantize(8, seed=1)(PIXELS))


@pytest.mark.parametrize("wrong", [-1.0, 8.0, 2.5, np.nan])
def test_other_numbers_are_refused_or_not_a_number(wrong):
    x = PIXELS.astype("float32")
    x[3, 1, 2, 0] = wrong
    layer = Dequantize(8)
    with pytest.raises(ValueError, match=r"x must hold integers in \[0, 8\), got"):
        layer(x)
    y = tf.function(layer)(x).numpy()
    assert np.isnan(y).all(axis=(1, 2, 3)).tolist() == [i == 3 for i in range(24)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "levels must be an integer of at least 2, got 1"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"levels": 2**23}, "levels=8388608 leaves no digits for noise in float32"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dequantize(**arguments)


def test_the_layer_in_a_sequence_and_in_a_file(tmp_path):
    sequence = InvertibleSequential([Dequantize(8, seed=3), ActNorm()])
    inputs = keras.Input((4, 4, 1), dtype="uint8")
    model = keras.Model(inputs, sequence(inputs))
    np.testing.assert_array_equal(sequence.inverse(model(PIXELS)), PIXELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(PIXELS), model(PIXELS))


# --- integers in a model ---


@pytest.fixture(scope="module", params=["uint8", "int64"])
def integers(request):
    return PIXELS.astype(request.param)


@pytest.fixture(scope="module")
def flow():
    model = small.flow(blocks=(1,), hidden=4, kernel_sizes=(3, 1), eval_log_det=Exact())
    model.adapt(PIXELS)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def test_integers_have_the_density_of_their_noisy_cells(flow):
    """Against noise drawn by numpy: the same distribution of ln p, two tests of error rate 1e-6."""
    density = tf.function(lambda seed: flow.log_prob(PIXELS[:2], seed=seed))
    draws = np.stack([density(tf.constant(seed)) for seed in range(600)], axis=1)
    repeated = np.repeat(PIXELS[:2], 600, axis=0)
    noise = np.random.default_rng(3).uniform(size=repeated.shape)
    other = flow.log_prob((repeated + noise).astype("float32")).numpy().reshape(2, 600)
    for ours, theirs in zip(draws, other, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-6
    centres = flow.log_prob(PIXELS[:2] + np.float32(0.4)).numpy()
    assert stats.ks_2samp(draws[0], np.full(600, centres[0])).pvalue < 1e-9


def test_the_noise_of_integers_is_the_example_s_own(flow, integers):
    value = flow.log_prob(integers, seed=4)
    part = flow.log_prob(integers[9:], seed=[0, 4, 9])
    np.testing.assert_allclose(part, value[9:], rtol=1e-5)
    traced = tf.function(lambda x: flow.log_prob(x, seed=4))(integers)
    np.testing.assert_allclose(traced, value, rtol=1e-5)
    found = [flow.evaluate(integers, batch_size=n, verbose=0, return_dict=True) for n in (24, 7)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)


def test_encoding_integers_takes_the_centres_of_their_cells(flow, integers):
    z = flow.encode(integers)
    np.testing.assert_array_equal(z, flow.encode(PIXELS + np.float32(0.5)))
    np.testing.assert_allclose(flow.predict(integers, verbose=0), z, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.floor(flow.decode(z)), PIXELS)


def test_integers_train_with_new_noise_at_every_step(integers):
    model = small.flow(blocks=(1,), hidden=4)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    losses = model.fit(integers, batch_size=24, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert len(set(losses)) == 3
    hybrid = small.hybrid(blocks=(1,), hidden=4)
    hybrid.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    labels = np.arange(24) % 3
    hybrid.fit(integers, labels, batch_size=24, verbose=0)
    log_prob, logits = hybrid.log_prob_and_logits(integers, seed=1)
    np.testing.assert_allclose(log_prob, hybrid.log_prob(integers, seed=1), rtol=1e-5)
    np.testing.assert_array_equal(hybrid(integers), hybrid(PIXELS + np.float32(0.5)))
    assert logits.shape == (24, 3)


def test_uniform_noise_costs_its_bits():
    """Fair choices among 256 values: exactly 8 bits a dimension, and no model says less."""
    x = np.random.default_rng(0).integers(0, 256, (256, 4, 4, 1)).astype("uint8")
    options = {"kernel_sizes": (3, 1), "log_det": PowerSeries(1)}
    model = small.flow(levels=256, blocks=(1,), hidden=4, **options)
    model.compile(keras.optimizers.Adam(1e-2))
    bits = model.fit(x, epochs=10, verbose=0).history["bits_per_dim"]
    assert 7.9 < bits[-1] < bits[0]


# --- floats that are no pixels ---


def float_cases():
    uniform = np.random.default_rng(4).integers(0, 8, (300, 4, 4, 1))
    noise = np.random.default_rng(5).uniform(size=uniform.shape)
    digits = load_digits().images[:, ::2, ::2, None] / 2.01  # of 17 levels, to 8
    yield "whole", uniform, "whole numbers as floats"
    yield "scaled", uniform / 7, r"a sliver of \[0, 8\): images scaled to \[0, 1\]"
    yield "scaled by levels", (uniform + 0.0) / 8, "a sliver of"
    yield "scaled with noise, many", (uniform + noise) / 8, "a sliver of"
    yield "scaled digits with noise", (np.floor(digits[:40]) + noise[:40]) / 8, "a sliver of"
    yield "outside", uniform + noise - 0.5, r"x must lie in \[0, 8\), pixels plus .* got values"
    yield "integers outside", (uniform + 1), r"x must lie in \[0, 8\), integers, got values from 1"


FLOATS = {name: (x, message) for name, x, message in float_cases()}


@pytest.mark.parametrize(("x", "message"), FLOATS.values(), ids=FLOATS)
def test_what_is_no_pixel_is_refused_in_every_loop(flow, x, message):
    if "integers, got" not in message:
        x = x.astype("float32")
    source = tf.data.Dataset.from_tensor_slices(x).batch(32)
    before = small.values(flow.trainable_variables)
    for loop in (
        lambda: flow.log_prob(x),
        lambda: flow.bits_per_dim(x),
        lambda: flow.fit(x, verbose=0),
        lambda: flow.evaluate(x, verbose=0),
        lambda: flow.train_on_batch(x),
        lambda: flow.test_on_batch(x),
        lambda: small.flow(blocks=(1,), hidden=4).adapt(x),
    ):
        with pytest.raises(ValueError, match=message) as error:
            loop()
        assert "\n" not in str(error.value)
    words = message.split(",")[0].split("(")[0].rstrip("\\")
    with pytest.raises(ValueError, match="x must lie in" if "must" in words else words[:11]):
        flow.fit(source, epochs=2, verbose=0, shuffle=False)
    small.assert_same(small.values(flow.trainable_variables), before)


def test_scaled_batches_are_refused_on_two_devices():
    x = (PIXELS / 7).astype("float32")
    source = tf.data.Dataset.from_tensor_slices(x).batch(8)
    with mirrored().scope():
        options = {"kernel_sizes": (1,), "log_det": PowerSeries(1), "eval_log_det": Exact()}
        model = small.flow(blocks=(1,), actnorm=False, **options)
        model.compile("sgd")
    with pytest.raises(ValueError, match="images scaled"):
        model.fit(source, verbose=0, shuffle=False)
    with pytest.raises(ValueError, match="images scaled"):
        model.evaluate(source, verbose=0)


@pytest.mark.soak
def test_scaled_batches_are_refused_under_xla():
    model = small.flow(blocks=(1,), hidden=4, actnorm=False)
    model.compile("sgd", jit_compile=True)
    source = tf.data.Dataset.from_tensor_slices((PIXELS / 7).astype("float32")).batch(8)
    with pytest.raises(ValueError, match="images scaled"):
        model.fit(source, verbose=0, shuffle=False)


def test_graphs_answer_nan_where_there_is_no_density(flow):
    x = NOISY.copy()
    x[1], x[2, 0, 0, 0] = PIXELS[1], 9.0
    value = tf.function(lambda x: flow.log_prob(x, seed=0))(x).numpy()
    assert np.isnan(value).tolist() == [i in (1, 2) for i in range(24)]
    np.testing.assert_allclose(value[3:], flow.log_prob(NOISY, seed=0)[3:], rtol=1e-4)


@pytest.mark.parametrize("event", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_black_images_with_noise_are_pixels(event):
    """200 batches of each size: the error rate of all together is below 1e-8."""
    rng = np.random.default_rng(6)
    for count in (1, 4, 32, 64):
        for _ in range(200 if np.prod(event) * count < 10_000 else 10):
            x = rng.uniform(size=(count, *event)).astype("float32")
            assert not bool(are_scaled(tf.constant(x), 256))
    black = np.zeros((64, *event), "uint8")
    assert not bool(are_scaled(Dequantize(256)(black), 256))
    mostly = black.copy()
    mostly[5, 3, 3] = 1
    assert not bool(are_scaled(Dequantize(256)(np.repeat(mostly, 5, 0)), 256))


@pytest.mark.parametrize("count", [4, 32])
def test_scaled_digits_are_noticed_in_small_batches(count):
    digits = load_digits().images[:count, ..., None].astype("float32")
    noise = np.random.default_rng(7).uniform(size=digits.shape).astype("float32")
    for scaled in (digits / 16, digits / 17, (digits + noise) / 17, 0.999 * digits / 16):
        assert bool(are_scaled(tf.constant(scaled), 17))
    assert not bool(are_scaled(tf.constant(digits + noise), 17))


def test_points_are_taken_as_they_are():
    model = small.flow((2,), levels=None, blocks=(1,), hidden=4)
    model.compile("sgd", run_eagerly=True)
    grid = np.arange(600).reshape(300, 2) % 2
    assert np.isfinite(model.log_prob(grid, seed=0)).all()
    model.fit(grid.astype("float32"), batch_size=300, verbose=0)
