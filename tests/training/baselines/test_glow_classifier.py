"""Classifiers on Glow's layers: features that are inverted exactly, training, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tf_iresnet.export import export_saved_model
from training.baselines import GlowClassifier
from training.data import DataSpec, SplitRange
from training.experiments.catalog import load_experiment
from training.loop.models import build_model, parameter_count
from training.measures.finished import Finished

EVENT = (4, 4, 3)
X, LABELS = small.pixels(12, EVENT), np.arange(12) % 3


@pytest.fixture(scope="module", params=["affine", pytest.param("additive", marks=pytest.mark.soak)])
def model(request):
    keras.utils.set_random_seed(0)
    model = GlowClassifier(EVENT, 3, blocks=(2, 1), hidden=4, coupling=request.param)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], run_eagerly=True)
    before = small.values(model.trainable_variables)
    model.adapt(X)
    for _ in range(3):
        model.train_step((X, LABELS))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path  # each has a gradient
    return model


def test_features_are_all_of_the_image(model):
    features = model.encode(X).numpy()
    assert features.shape == (12, 1, 1, 48)
    result = model.decode(features, return_result=True)
    np.testing.assert_allclose(result.x, X, atol=1e-4)
    # A constant volume, or one that depends on the image: what the couplings' names say.
    _, log_det = model.flow.forward_and_log_det(X)
    constant = model.architecture.coupling == "additive"
    assert (np.ptp(log_det.numpy()) < 1e-3) == constant


@pytest.mark.soak
def test_the_classes_are_learned(model):
    model.fit(X, LABELS, epochs=20, batch_size=12, verbose=0)
    assert model.evaluate(X, LABELS, verbose=0, return_dict=True)["accuracy"] > 0.5


def test_files_keep_all_of_it(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(again(X), model(X))
    export_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert set(loaded) == {"classify", "encode", "decode", "reconstruct", "serving_default"}
    logits = loaded["classify"](x=tf.constant(X))["logits"]
    np.testing.assert_allclose(logits, model(X), rtol=1e-4, atol=1e-4)


@pytest.mark.soak
def test_the_models_of_table_3_are_of_one_size():
    splits = {name: SplitRange("all", 0, 4) for name in ("train", "validation", "test")}
    spec = DataSpec("cifar10", (32, 32, 3), 256, 10, splits)
    kinds = ("glowlike", "glow_affine", "glow_additive")
    models = [build_model(load_experiment(f"cifar10_classifier_{kind}"), spec) for kind in kinds]
    counts = [parameter_count(model) for model in models]
    assert max(counts) < 1.2 * min(counts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10_classifier_glow_affine", True),
        ("mnist_classifier_resnet", True),
        ("mnist_flow_nice", True),
        ("cifar10_classifier_glowlike", False),
        ("mnist_flow", False),
        ("digits_hybrid", False),
    ],
)
def test_what_is_only_compared_with_is_known_by_its_architecture(name, expected):
    """Of these no certificate is asked for."""
    finished = Finished(None, load_experiment(name), None, None, 0)
    assert finished.is_baseline == expected


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"coupling.*affine.*additive.*'linear'"):
        GlowClassifier(EVENT, 3, blocks=(1,), hidden=4, coupling="linear")
