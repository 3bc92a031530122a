"""The classifier: its features, its head and its training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tests.library import small_models as small
from tf_iresnet.layers import ActNorm, InjectivePadding, InvertibleResidual, Squeeze
from tf_iresnet.models import IResNetClassifier

X, LABELS = small.pixels(16), np.arange(16) % 3


def compiled(model, rate=0.02, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **options)
    return model


@pytest.fixture(scope="module")
def model():
    """A classifier after three eager steps."""
    model = compiled(small.classifier(ema_momentum=0.9), run_eagerly=True)
    before = small.values(model.trainable_variables)
    model.adapt(X)
    for _ in range(3):
        model.train_step((X, LABELS))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path  # each has a gradient
    return model


def test_the_logits_are_the_head_of_the_features(model):
    features = model.encode(X).numpy()
    assert features.shape == (16, 2, 2, 8)
    norm, *_, dense = model.head.layers
    standard = (features - norm.moving_mean) / np.sqrt(norm.moving_variance + norm.epsilon)
    pooled = np.maximum(norm.gamma * standard + norm.beta, 0).mean((1, 2))
    np.testing.assert_allclose(model(X), pooled @ dense.kernel + dense.bias, rtol=1e-4, atol=1e-5)


def test_the_head_s_parts(model):
    kinds = ["BatchNormalization", "ReLU", "GlobalAveragePooling2D", "Dense"]
    assert [type(layer).__name__ for layer in model.head.layers] == kinds


def test_batch_statistics_are_used_in_training_only(model):
    x = tf.constant(X)
    assert np.abs(model(x, training=True) - model(x)).max() > 1e-3
    alone = np.concatenate([model(x[:1]), model(x[1:])])
    np.testing.assert_allclose(alone, model(x), rtol=1e-4, atol=1e-5)
    assert np.any(model.head.layers[0].moving_mean != np.zeros(8))


def test_decode_undoes_encode(model):
    features = model.encode(X)
    np.testing.assert_allclose(model.decode(features), X, atol=1e-5)
    result = model.decode(features, return_result=True)
    assert result.converged.numpy().all()
    assert result.steps.numpy().min() > 1


def test_features_away_from_the_data_decode_too(model):
    features = model.encode(X) + 0.1
    padded = model.flow.layers[0].forward(model.decode(features))
    assert padded.shape == (16, 4, 4, 2)
    # The added channel of the preimage is not zero: it is dropped.
    assert np.abs(model.encode(model.decode(features)) - features).max() > 1e-3


def test_the_layers_of_the_paper():
    model = small.classifier(blocks=(2, 1), padding=3)
    padding, first, second = model.flow.layers
    assert isinstance(padding, InjectivePadding)
    kinds = [ActNorm, InvertibleResidual] * 2
    assert [type(layer) for layer in first.layers] == kinds
    assert [type(layer) for layer in second.layers] == [Squeeze, *kinds[:2]]
    blocks = [layer for scale in (first, second) for layer in scale.layers]
    blocks = [block for block in blocks if isinstance(block, InvertibleResidual)]
    # The very first branch starts with its convolution.
    assert [block.branch.input_activation for block in blocks] == [False, True, True]
    assert len(blocks[0].branch.parts) == 5
    assert len(blocks[1].branch.parts) == 6


def test_no_padding():
    model = small.classifier(padding=0, squeeze_first=True, actnorm=False)
    assert model.initialized
    features = model.encode(X)
    assert features.shape == (16, 1, 1, 16)
    np.testing.assert_allclose(model.decode(features), X, atol=1e-5)


def test_a_frozen_head(model):
    frozen = small.classifier(ema_momentum=0.9)
    frozen.head.trainable = False
    compiled(frozen, run_eagerly=True).adapt(X)
    before = small.values(frozen.head.weights)
    frozen.train_step((X, LABELS))
    small.assert_same(small.values(frozen.head.weights), before)
    assert int(frozen.average.count) == 1


def test_each_step_uses_the_norms_of_its_own_weights(model):
    layer = next(model.flow.spectral_layers())
    saved, used = model.get_weights(), layer.kernel.numpy()
    model.train_step((X, LABELS))
    np.testing.assert_array_equal(layer.known_norm.kernel, used)
    assert np.any(layer.kernel.numpy() != used)
    assert float(layer.lipschitz_estimate()) <= layer.coeff * (1 + 1e-6)
    np.testing.assert_array_equal(layer.known_norm.kernel, layer.kernel)
    model.set_weights(saved)


def test_mixed_precision_gives_logits_in_float32():
    model = compiled(small.classifier(dtype="mixed_bfloat16"), run_eagerly=True)
    model.adapt(X)
    model.train_step((X, LABELS))
    assert model(X).dtype == tf.float32
    np.testing.assert_allclose(model.decode(model.encode(X)), X, atol=1e-5)


def test_an_unconstrained_classifier_trains():
    model = compiled(small.classifier(coeff=None), run_eagerly=True)
    model.adapt(X)
    model.train_step((X, LABELS))
    assert np.isfinite(model(X)).all()
    assert not [w.path for w in model.weights if w.path.endswith(("/u", "/v"))]


def test_fit_learns_digits():
    digits = load_digits()
    x, y = digits.images[:600, ..., None].astype("float32") / 16, digits.target[:600]
    keras.utils.set_random_seed(0)
    options = {"blocks": (1, 1), "hidden": 16, "kernel_sizes": (3, 3), "ema_momentum": 0.9}
    model = IResNetClassifier((8, 8, 1), 10, **options)
    compiled(model, 0.02)
    options = {"batch_size": 50, "verbose": 0}
    history = model.fit(x[:500], y[:500], epochs=6, validation_data=(x[500:], y[500:]), **options)
    assert history.history["val_accuracy"][-1] > 0.6  # chance is 0.1
    logs = model.evaluate(x[500:], y[500:], return_dict=True, **options)
    np.testing.assert_allclose(logs["accuracy"], history.history["val_accuracy"][-1], atol=0.02)
    np.testing.assert_allclose(model.decode(model.encode(x[:20])), x[:20], atol=1e-5)
    for layer in model.flow.spectral_layers():
        assert layer.lipschitz_bound() < 0.9 * 1.2  # as large as the bound's own slack
    with model.averaged_weights():
        labels = np.argmax(model.predict(x[500:], verbose=0), 1)
    assert np.mean(labels == y[500:]) == pytest.approx(logs["accuracy"])
