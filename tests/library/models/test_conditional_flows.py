"""Conditional flows: a density for each context, in Keras' loops, files and distributions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.library import small_models as small
from tests.library.reference import jacobians
from tf_iresnet.export import export_saved_model
from tf_iresnet.layers import (
    ActNorm,
    Conditioned,
)
from tf_iresnet.log_det import Exact, PowerSeries

PIXELS = small.pixels(6)
CLASSES = np.eye(3, dtype="float32")[np.arange(6) % 3]


@pytest.fixture(scope="module")
def flow():
    model = small.flow(context_size=3, ema_momentum=0.9, blocks=(1,), kernel_sizes=(3, 1))
    model.adapt(PIXELS, context=CLASSES)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * rng.standard_normal(variable.shape))
    model.converge_spectral_state()
    return model


def test_a_conditional_density_is_one(flow):
    """By the change of variables, with a dense Jacobian and the prior's formula."""
    value = flow.log_prob(PIXELS, log_det=Exact(), context=CLASSES)
    z = flow.encode(PIXELS, context=CLASSES).numpy().astype("float64")
    jacobian = jacobians(lambda x: flow.encode(x, context=CLASSES), PIXELS)
    prior = flow.prior
    loc = prior.loc.numpy() + CLASSES @ prior.loc_kernel.numpy()
    log_scale = prior.log_scale.numpy() + CLASSES @ prior.log_scale_kernel.numpy()
    normal = -0.5 * ((z - loc) / np.exp(log_scale)) ** 2 - log_scale - 0.5 * np.log(2 * np.pi)
    truth = normal.sum(1) + np.linalg.slogdet(jacobian.astype("float64"))[1]
    np.testing.assert_allclose(value, truth, atol=2e-3)
    bits = flow.bits_per_dim(PIXELS, log_det=Exact(), context=CLASSES)
    np.testing.assert_allclose(bits, -truth / (16 * np.log(2)), atol=1e-3)
    assert np.abs(flow.log_prob(PIXELS, log_det=Exact(), context=CLASSES[::-1]) - truth).max() > 0.1


def test_samples_are_of_their_context(flow):
    samples = flow.sample(6, seed=4, context=CLASSES)
    z = flow.sample_latents(6, seed=4, context=CLASSES)
    np.testing.assert_array_equal(samples, flow.clipped(flow.decode(z, context=CLASSES)))
    again = flow.sample(6, seed=4, temperature=0.0, context=CLASSES).numpy()
    np.testing.assert_array_equal(again[:3], again[3:])  # the same three contexts
    assert np.abs(again[0] - again[1]).max() > 0.01
    back = flow.decode(flow.encode(PIXELS, context=CLASSES), context=CLASSES)
    np.testing.assert_allclose(back, PIXELS, atol=1e-4)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, r"is conditional: give context, of shape \[batch, 3\]"),
        (CLASSES[:, :2], r"context must have the shape \[batch, 3\], got \(6, 2\)"),
        (CLASSES[0], r"context must have the shape \[batch, 3\], got \(3,\)"),
        (CLASSES[:2], "context must have one row for each of the 6 examples, got 2"),
        (CLASSES * np.nan, "context holds NaN or infinite values"),
    ],
)
def test_wrong_contexts_are_refused_before_any_work(flow, context, message, monkeypatch):
    monkeypatch.setattr(type(flow.flow), "_log_det", None)
    monkeypatch.setattr(type(flow.flow), "_inverse", None)
    z = np.zeros((6, 16), "float32")
    for call in (
        lambda: flow.log_prob(PIXELS, context=context),
        lambda: flow.encode(PIXELS, context=context),
        lambda: flow.adapt(PIXELS, context=context),
        lambda: flow.decode(z, context=context),
        lambda: flow.sample(6, context=context),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_an_unconditional_model_takes_no_context():
    model = small.flow(blocks=(1,))
    for call in (
        lambda: model.log_prob(PIXELS, context=CLASSES),
        lambda: model.sample(6, context=CLASSES),
        lambda: model.as_distribution(context=CLASSES[0]),
        lambda: model.flow.inverse(np.zeros((6, 16), "float32"), context=CLASSES),
        lambda: ActNorm()(PIXELS, context=CLASSES),
        lambda: Conditioned(model.flow, CLASSES[0]),
    ):
        with pytest.raises(ValueError, match="is unconditional but got a context"):
            call()


def test_a_context_of_another_length_is_noticed_in_graphs(flow):
    spec = tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None, 3])
    encode = tf.function(flow.encode, input_signature=spec, autograph=False)
    np.testing.assert_allclose(
        encode(PIXELS, CLASSES), flow.encode(PIXELS, context=CLASSES), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each example"):
        encode(PIXELS, CLASSES[:3])  # which fits twice


def test_fit_takes_pairs_and_learns_what_the_class_tells():
    """More than the true density without the class does, which no unconditional model beats."""
    rng = np.random.default_rng(0)
    context = np.eye(2, dtype="float32")[rng.integers(2, size=64)]
    means = np.array([[3.0, 0.0], [-3.0, 1.0]])
    x = (context @ means + rng.standard_normal((64, 2))).astype("float32")
    estimators = {"log_det": PowerSeries(terms=1), "eval_log_det": Exact()}
    arguments = {"levels": None, "blocks": (1,), "hidden": 4, "kernel_sizes": (1, 1)}
    model = small.flow((2,), context_size=2, **estimators, **arguments)
    model.compile(keras.optimizers.Adam(0.15), run_eagerly=True)
    pairs = tf.data.Dataset.from_tensor_slices((x, context)).batch(32)
    model.fit(pairs, epochs=2, verbose=0, shuffle=False)
    model.fit(x, context, batch_size=32, epochs=5, shuffle=False, verbose=0)
    bits = model.evaluate(pairs, verbose=0, return_dict=True)["bits_per_dim"]
    mixture = np.mean([stats.multivariate_normal(mean).pdf(x) for mean in means], axis=0)
    assert bits < -np.log2(mixture).mean() / 2 - 0.2
    np.testing.assert_allclose(
        model.predict(pairs, verbose=0), model(x, context=context), atol=1e-5
    )
    for data in (x, (x,), (x, None)):
        with pytest.raises(ValueError, match=r"is conditional: give context beside x, as in fit"):
            model.train_step(data)


def test_files_keep_a_conditional_flow(flow, tmp_path):
    value = flow.log_prob(PIXELS, 3, context=CLASSES)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(PIXELS, 3, context=CLASSES), value)
    export_saved_model(flow, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    given = {"context": tf.constant(CLASSES)}
    out = signatures["log_prob"](x=tf.constant(PIXELS), seed=tf.constant(3), **given)
    np.testing.assert_allclose(out["log_prob"], value, atol=1e-3)
    z = signatures["encode"](x=tf.constant(PIXELS), **given)["z"]
    np.testing.assert_allclose(signatures["decode"](z=z, **given)["x"], PIXELS, atol=1e-4)
    options = {"seed": tf.constant(7), "temperature": tf.constant(1.0), **given}
    drawn = signatures["sample"](n=tf.constant(6), **options)["x"]
    np.testing.assert_allclose(drawn, flow.sample(6, 7, context=CLASSES), atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each example"):
        signatures["sample"](n=tf.constant(12), **options)


def test_the_distribution_at_a_context(flow):
    density = flow.as_distribution(context=CLASSES[1])
    rows = np.tile(CLASSES[1], (6, 1))
    value = density.log_prob(PIXELS, bijector_kwargs={"seed": 5})
    np.testing.assert_allclose(value, flow.log_prob(PIXELS, 5, context=rows), atol=1e-3)
    assert density.sample(2).shape == (2, 4, 4, 1)
    assert len(density.trainable_variables) == len(flow.trainable_variables)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(density.log_prob(PIXELS))
    gradients = tape.gradient(total, density.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    with pytest.raises(ValueError, match=r"context must have the shape \[3\], got \(6, 3\)"):
        flow.as_distribution(context=CLASSES)
    with pytest.raises(ValueError, match="is conditional: give context"):
        flow.as_distribution()
