"""A hybrid's density and classes against their definitions, its loss, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tests.library import small_models as small
from tests.library.reference import difference, jacobians
from tf_iresnet import certify
from tf_iresnet.log_det import Exact
from tf_iresnet.models import IResNetHybrid

EPSILON = 1e-3  # Keras' batch normalisation adds it to variances
CASES = {
    "images": {"preprocessing": None, "factor_out": True},
    "one map": {"preprocessing": "shift"},
    "points": {"event": (4,), "levels": None, "factor_out": True},
}
LABELS = np.arange(24) % 3


def data(event=small.EVENT):
    """Images, or points, whose class is plain to see."""
    x = small.pixels(24, event) if len(event) == 3 else small.points(24, *event)
    shift = (LABELS - 1.0).reshape(-1, *[1] * len(event))
    return np.clip(x + shift, 0.01, small.LEVELS - 0.01).astype("float32")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A trained hybrid in float64, its data."""
    arguments = {"event": small.EVENT, **CASES[request.param]}
    x = data(arguments["event"]).astype("float64")
    model = small.hybrid(
        dtype="float64",
        log_det=Exact(),
        eval_log_det=Exact(),
        classification_weight=0.7,
        label_smoothing=0.3,
        **arguments,
    )
    before = small.values(model.trainable_variables)
    small.train(model, (x, LABELS), 2)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path  # each has a gradient
    model.converge_spectral_state(1e-9)  # as evaluation does, to less
    return model, x


def features(model, x):
    """The latents of each scale, cut out of the flat latent by hand."""
    z = model.encode(x).numpy()
    scales = model.flow.layers[-1]
    if len(model.event_shape) == 1:
        return [z[:, :2], z[:, 2:]] if scales.factor_out else [z]
    if not scales.factor_out:
        return [z.reshape(-1, 1, 1, 16)]
    return [z[:, :8].reshape(-1, 2, 2, 2), z[:, 8:].reshape(-1, 1, 1, 8)]


def head(model, x, moments=None):
    """The logits by numpy; the moments are those of the batch, or the stored ones."""
    pooled = []
    for z, norm, linear in zip(
        features(model, x), model.head.norms, model.head.linear, strict=True
    ):
        axes = tuple(range(z.ndim - 1))
        if moments == "batch":
            mean, variance = z.mean(axes), z.var(axes)
        else:
            mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        y = (z - mean) / np.sqrt(variance + EPSILON) * norm.gamma.numpy() + norm.beta.numpy()
        kernel, bias = linear.kernel.numpy(), linear.bias.numpy()
        if z.ndim == 2:
            pooled.append(np.maximum(y @ kernel + bias, 0))
            continue
        y, height, width = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), *z.shape[1:3]
        maps = sum(
            y[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
        )
        pooled.append(np.maximum(maps + bias, 0).mean((1, 2)))
    dense = model.head.logits
    return np.concatenate(pooled, 1) @ dense.kernel.numpy() + dense.bias.numpy()


def test_both_numbers_are_those_of_the_definitions(case):
    model, x = case
    x = x[:4]
    z = model.encode(x).numpy()
    blocks = model.flow.layers[-1]
    scale = 1.0 if model.preprocessing is None else 1.0 / model.levels
    y = x if model.preprocessing is None else x / model.levels - 0.5
    log_det = np.linalg.slogdet(jacobians(blocks.forward, y))[1] + x[0].size * np.log(scale)
    prior = stats.norm.logpdf(z, model.prior.loc, np.exp(model.prior.log_scale)).sum(1)
    log_prob, logits = model.log_prob_and_logits(x, seed=1)
    np.testing.assert_allclose(log_prob, prior + log_det, rtol=1e-10)
    np.testing.assert_allclose(model.log_prob(x, seed=1), log_prob, rtol=1e-12)
    np.testing.assert_allclose(logits, head(model, x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model(x), logits, rtol=1e-12)
    np.testing.assert_allclose(model.predict(x, verbose=0), logits, rtol=1e-9)
    np.testing.assert_allclose(model.decode(z), x, atol=1e-9)


def first_loss(model, x):
    """The sum of the losses of a training step, and what adds to the metrics."""
    step = tf.convert_to_tensor(model.steps_taken)
    objective = model.objective
    return objective.loss(objective.read((x, LABELS)), step, tf.constant(0), training=True)


def expected_loss(model, x, y, moments=None):
    bits = -model.log_prob(x, log_det=Exact()).numpy() / np.log(2) / x[0].size
    log_p = special.log_softmax(head(model, x, moments), axis=1)
    entropy = -log_p[np.arange(len(y)), y]
    smoothed = 0.7 * entropy + 0.3 * -log_p.mean(1)
    accuracy = (log_p.argmax(1) == y).mean()
    return {
        "loss": (bits + 0.7 * smoothed).mean(),
        "bits_per_dim": bits.mean(),
        "cross_entropy": entropy.mean(),
        "accuracy": accuracy,
    }


def test_the_loss_is_the_formula(case):
    model, x = case
    found = model.evaluate(x, LABELS[:, None], batch_size=7, verbose=0, return_dict=True)
    expected = expected_loss(model, x, LABELS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    # In training the head sees the moments of the batch.
    total, _ = first_loss(model, x)
    expected = expected_loss(model, x, LABELS, "batch")["loss"]
    assert float(total) / len(x) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    model = small.hybrid((2,), levels=None, blocks=(1,), hidden=3, dtype="float64", log_det=Exact())
    x = data((2,)).astype("float64")
    model.compile(keras.optimizers.SGD(), run_eagerly=True)
    model.adapt(x)

    total_loss = tf.function(lambda: first_loss(model, x)[0], autograph=False)

    def loss(value, variable):
        variable.assign(value)
        return float(total_loss())

    state = model.objective.forward_state
    kept = small.values(state)
    with tf.GradientTape() as tape:
        total, _ = first_loss(model, x)
    gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
    assert small.values(state)[0].any() != kept[0].any()
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        at = variable.numpy()
        # The norms that the spectral layers divide by are not differentiated in u and v.
        expected = difference(lambda value, v=variable: [loss(value, v)], at)[0]
        variable.assign(at)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5, err_msg=variable.path)


def test_fit_improves_both():
    x = data((4,))
    model = small.hybrid(
        (4,), levels=None, blocks=(1,), hidden=4, ema_momentum=0.5, eval_log_det=Exact()
    )
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(x, LABELS, batch_size=12, epochs=25, shuffle=False, verbose=0).history
    after = model.evaluate(x, LABELS, verbose=0, return_dict=True)
    assert set(after) == {"loss", "bits_per_dim", "cross_entropy", "accuracy"}
    assert set(history) == {*after, "skipped_steps"}
    assert after["bits_per_dim"] < history["bits_per_dim"][0] - 0.1
    assert after["cross_entropy"] < history["cross_entropy"][0] - 0.3
    assert after["accuracy"] > 0.6
    assert certify(model).invertible
    distribution = model.as_distribution()
    np.testing.assert_allclose(distribution.log_prob(x), model.log_prob(x), rtol=1e-4)


def test_a_small_weight_leaves_the_density_s_gradient():
    """As the weight goes to zero, the blocks are trained as a flow's are."""
    x, moved = data(), []
    for model in (small.flow(), small.hybrid(classification_weight=1e-9)):
        small.train(model, x if len(moved) == 0 else (x, LABELS), 2)
        moved.append(small.values(model.flow.trainable_variables))
    for ours, theirs in zip(*moved, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes must be an integer of at least 2, got 1"),
        ({"classification_weight": 0.0}, "classification_weight must be .* above 0, got 0.0"),
        ({"classification_weight": np.inf}, "classification_weight must be .* above 0, got inf"),
        ({"classification_weight": "1"}, "classification_weight must be .* above 0, got '1'"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be .* in \[0, 1\), got 1.0"),
        ({"head_width": 0}, "head_width must be an integer of at least 1, got 0"),
        ({"context_size": 3}, "context_size=3 is for IResNetFlow"),
        ({"coeff": 2.0}, r"coeff must lie in \(0, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    arguments = {"event_shape": small.EVENT, "classes": 3, "blocks": (1,), "hidden": 4}
    with pytest.raises(ValueError, match=message) as error:
        IResNetHybrid(**{**arguments, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"trained on pairs of x and labels y, as in fit\(x, y\), got no y"),
        (LABELS + 1, r"y must hold integers from 0 to 2, the labels, got 3; number"),
        (LABELS - 1, r"y must hold integers from 0 to 2, the labels, got -1; number"),
        (LABELS + 0.5, r"y must hold integers from 0 to 2, the labels, got 0.5; number"),
        (np.eye(3)[LABELS], r"y must hold integer labels, of the shape \[batch\].* got \(24, 3\)"),
    ],
)
def test_wrong_labels_are_refused_before_training(y, message):
    model = small.hybrid(blocks=(1,), hidden=4)
    model.compile("sgd", run_eagerly=True)
    for loop in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            loop(data(), y, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_wrong_labels_of_a_data_set_end_training():
    model = small.hybrid(blocks=(1,), hidden=4)
    model.compile("sgd")
    batches = tf.data.Dataset.from_tensor_slices((data(), LABELS + 1)).batch(24)
    with pytest.raises(tf.errors.InvalidArgumentError, match="y must hold integers from 0 to 2"):
        model.fit(batches, shuffle=False, verbose=0)


def test_contexts_are_refused():
    model = small.hybrid(blocks=(1,), hidden=4)
    with pytest.raises(ValueError, match="context"):
        model(data(), context=np.ones((24, 1)))


def test_half_precision_keeps_logits_and_density_wide():
    x = data()
    model = small.train(small.hybrid(dtype="mixed_bfloat16"), (x, LABELS), 1)
    assert {part.dtype for part in model.log_prob_and_logits(x, seed=0)} == {tf.float32}
