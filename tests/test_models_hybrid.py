"""The hybrid: a density and a classifier on the same blocks, trained at once."""

import math

import keras
import numpy as np
import pytest
import small_models as small
import tensorflow as tf
from scipy.special import log_softmax
from test_distribution import assert_close, mirrored  # noqa: F401  (a fixture)

from tf_iresnet import certify
from tf_iresnet.export import export_saved_model
from tf_iresnet.log_det import Exact
from tf_iresnet.models import IResNetHybrid


def compiled(model, rate=0.02, **options):
    model.compile(keras.optimizers.Adam(rate), **options)
    return model


X, LABELS = small.pixels(16), np.arange(16) % 3
DIMS = math.prod(small.EVENT)


@pytest.fixture(scope="module")
def model():
    """A hybrid of two scales after three eager steps."""
    model = compiled(small.hybrid(factor_out=True, ema_momentum=0.9), run_eagerly=True)
    before = small.values(model.trainable_variables)
    model.initialize(X)
    for _ in range(3):
        model.train_step((X, LABELS))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path  # each has a gradient
    return model


def test_the_logits_are_the_head_of_the_latents(model):
    """Written out in numpy: a convolution is a sum over shifted copies."""
    z = model.encode(X).numpy()
    sizes = [(2, 2, 2), (1, 1, 8)]
    parts = np.split(z, [8], axis=1)
    features = []
    for part, shape, linear, norm in zip(
        parts, sizes, model.head.linear, model.head.norms, strict=True
    ):
        x = part.reshape(-1, *shape)
        x = (x - norm.moving_mean) / np.sqrt(norm.moving_variance + norm.epsilon)
        x = np.pad(norm.gamma * x + norm.beta, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width, _ = shape
        y = sum(
            x[:, i : i + height, j : j + width] @ linear.kernel.numpy()[i, j]
            for i in range(3)
            for j in range(3)
        )
        features.append(np.maximum(y + linear.bias, 0).mean((1, 2)))
    dense = model.head.logits
    expected = np.concatenate(features, 1) @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(model(X), expected, rtol=1e-4, atol=1e-4)


def test_the_density_is_that_of_the_change_of_variables():
    model = small.hybrid(dtype="float64", factor_out=True)
    model.initialize(X)
    x = tf.constant(X[:3], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = model.encode(x)
    jacobian = tape.batch_jacobian(z, x).numpy().reshape(3, DIMS, DIMS)
    normal = -0.5 * (z.numpy() ** 2 + math.log(2 * math.pi)).sum(1)  # the prior's initial state
    expected = normal + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(model.log_prob(x, log_det=Exact()), expected, rtol=1e-9)
    model.eval_log_det = Exact()
    log_prob, logits = model.log_prob_and_logits(x)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)
    np.testing.assert_allclose(logits, model(x), rtol=1e-12)


@pytest.mark.parametrize(("weight", "smoothing"), [(0.3, 0.0), (7.0, 0.2)])
def test_the_loss_is_the_weighted_sum(weight, smoothing):
    options = {"classification_weight": weight, "label_smoothing": smoothing}
    model = compiled(small.hybrid(dtype="float64", **options), run_eagerly=True)
    model.initialize(X)
    model.eval_log_det = Exact()
    logs = model.evaluate(X, LABELS, batch_size=5, verbose=0, return_dict=True)
    log_prob, logits = (part.numpy() for part in model.log_prob_and_logits(X))
    classes = log_softmax(logits, 1)
    right = classes[np.arange(16), LABELS]
    bits = -log_prob.mean() / DIMS / math.log(2)
    smoothed = (1 - smoothing) * right + smoothing * classes.mean(1)
    expected = {
        "loss": bits - weight * smoothed.mean(),
        "cross_entropy": -right.mean(),
        "bits_per_dim": bits,
        "accuracy": (logits.argmax(1) == LABELS).mean(),
    }
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def test_a_step_weighs_their_gradients():
    """From the same weights with the same draws, a step of SGD is linear in the weight."""
    moves = []
    for weight in (1.0, 2.0, 3.0):
        model = small.hybrid(classification_weight=weight, dtype="float64", blocks=(1,))
        model.initialize(X)
        before = small.values(model.trainable_variables)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.train_step((X, LABELS))
        pairs = zip(before, model.trainable_variables, strict=True)
        moves.append([variable.numpy() - old for old, variable in pairs])
    for variable, first, second, third in zip(model.trainable_variables, *moves, strict=True):
        on_class = second - first
        np.testing.assert_allclose(third - second, on_class, atol=1e-6, err_msg=variable.path)
        if variable.path.endswith("kernel"):  # the head takes the means of its input away
            assert np.any(abs(on_class) > 1e-9)
        if variable.path.startswith("prior"):
            assert np.all(abs(on_class) < 1e-12)
        on_density = first - on_class
        assert np.any(abs(on_density) > 1e-9) == (not variable.path.startswith("head"))


def test_two_devices_train_as_one_does(mirrored):  # noqa: F811
    def trained(strategy):
        keras.config.set_floatx("float64")
        try:
            with strategy.scope():
                model = compiled(small.hybrid(dtype="float64", blocks=(1,), ema_momentum=0.9))
            data = X.astype("float64"), LABELS
            history = model.fit(*data, batch_size=7, epochs=2, verbose=0, shuffle=False).history
        finally:
            keras.config.set_floatx("float32")
        state = {v.path: np.asarray(tf.convert_to_tensor(v)) for v in model.weights}
        return state | {name: np.asarray(values) for name, values in history.items()}

    assert_close(trained(mirrored.strategy), trained(tf.distribute.get_strategy()), 0, 1e-8)


@pytest.mark.parametrize("kind", [".keras", ".weights.h5"])
def test_files_keep_all_of_it(model, tmp_path, kind):
    path = tmp_path / f"model{kind}"
    if kind == ".keras":
        model.save(path)
        again = keras.saving.load_model(path)
    else:
        model.save_weights(path)
        again = IResNetHybrid.from_config(model.get_config())
        again.load_weights(path)
    assert isinstance(again, IResNetHybrid)
    assert again.get_config() == model.get_config()
    for mine, other in zip(
        model.log_prob_and_logits(X, seed=1), again.log_prob_and_logits(X, seed=1), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


def test_one_saved_model_gives_both_numbers(model, tmp_path):
    export_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1")).signatures
    names = {"predict", "classify", "encode", "decode", "log_prob", "sample", "serving_default"}
    assert set(loaded) == names
    x, seed = tf.constant(X), tf.constant(3)
    found = loaded["predict"](x=x, seed=seed)
    log_prob, logits = model.log_prob_and_logits(X, seed=3)
    np.testing.assert_allclose(found["log_prob"], log_prob, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["label"], np.argmax(logits, 1))
    np.testing.assert_allclose(found["bits_per_dim"], model.to_bits(log_prob), rtol=1e-4)
    np.testing.assert_array_equal(loaded["classify"](x=x)["label"], found["label"])
    np.testing.assert_allclose(loaded["decode"](z=loaded["encode"](x=x)["z"])["x"], X, atol=1e-3)


def test_its_blocks_are_certified(model):
    certificate = certify(model)
    assert len(certificate.blocks) == 2
    assert certificate.contraction < 1


def test_points_without_space():
    x, y = small.points(32, 2), np.arange(32) % 2
    model = compiled(small.hybrid((2,), 2, levels=None), run_eagerly=True)
    model.initialize(x)
    logs = model.train_step((x, y))
    assert all(math.isfinite(value) for value in logs.values())
    assert model.sample(4, seed=0).shape == (4, 2)
    assert model.predict(x, verbose=0).shape == (32, 2)


def test_half_precision_keeps_logits_and_density_wide():
    model = compiled(small.hybrid(dtype="mixed_bfloat16"), run_eagerly=True)
    model.initialize(X)
    model.train_step((X, LABELS))
    assert {part.dtype for part in model.log_prob_and_logits(X, seed=0)} == {tf.float32}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classification_weight": 0.0}, "classification_weight.*above 0.*0.0"),
        ({"classification_weight": math.inf}, "classification_weight.*inf"),
        ({"classification_weight": True}, "classification_weight.*True"),
        ({"label_smoothing": 1.0}, "label_smoothing.*1.0"),
        ({"classes": 1}, "classes.*1"),
        ({"head_width": 0}, "head_width.*0"),
        ({"context_size": 10}, "context_size=10.*leave it out"),
    ],
)
def test_bad_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        small.hybrid(**changes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X,), r"pairs of x and labels y.*got no y"),
        ((X, LABELS + 1), r"from 0 to 2.*got 3"),
        ((X, LABELS + 0.5), r"from 0 to 2.*got 0.5"),
        ((X, np.eye(3)[LABELS]), r"integer labels.*\(16, 3\)"),
    ],
)
def test_bad_labels_are_refused(data, words):
    model = compiled(small.hybrid(), run_eagerly=True)
    with pytest.raises(ValueError, match=words):
        model.fit(*data, verbose=0)
