"""The ResNet baseline against its formulas, trained as the invertible classifiers are."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import conv_matrix
from tests.training.tiny_runs import TINY
from training.baselines.resnet import ResidualUnit, ResNet
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.experiments.config import ClassifierModel, ResNetModel, parse_experiment
from training.loop.models import parameter_count
from training.loop.train import train
from training.measures.certify import certify_run
from training.measures.evaluate import evaluate
from training.measures.finished import open_finished
from training.measures.reconstruct import write_reconstructions
from training.reports.saved_model import write_saved_model

EPSILON = 1e-3


def convolved(x, layer):
    """A convolution by its matrix."""
    kernel = layer.kernel.numpy().astype("float64")
    matrix = conv_matrix(kernel, x.shape[1:3], strides=layer.strides)
    height, width = (-(-n // s) for n, s in zip(x.shape[1:3], layer.strides, strict=True))
    return (x.reshape(len(x), -1) @ matrix).reshape(len(x), height, width, kernel.shape[-1])


def rectified(x, norm):
    mean, variance, gamma, beta = (
        np.asarray(v, "float64")
        for v in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    return np.maximum((x - mean) / np.sqrt(variance + EPSILON) * gamma + beta, 0)


def scattered(layer):
    """Weights other than the initial ones, so that each matters."""
    rng = np.random.default_rng(0)
    for v in layer.weights:
        v.assign(v + 0.2 * np.abs(rng.standard_normal(v.shape)))


@pytest.mark.parametrize(
    ("unit", "filters", "strides"), [("basic", 3, 1), ("basic", 4, 2), ("bottleneck", 8, 2)]
)
def test_a_unit_is_a_sum_of_shortcut_and_branch(unit, filters, strides):
    x = np.random.default_rng(1).standard_normal((2, 4, 4, 3))
    layer = ResidualUnit(unit, filters, strides, dtype="float64")
    layer.build(x.shape)
    scattered(layer)
    first = y = rectified(x, layer.norms[0])
    y = convolved(y, layer.convolutions[0])
    for norm, convolution in zip(layer.norms[1:], layer.convolutions[1:], strict=True):
        y = convolved(rectified(y, norm), convolution)
    kept = x if layer.shortcut is None else convolved(first, layer.shortcut)
    assert (layer.shortcut is None) == (strides == 1 and filters == 3)
    np.testing.assert_allclose(layer(x, training=False), kept + y, rtol=1e-9)


def test_the_whole_network_is_its_units_and_a_linear_classifier():
    model = ResNet((8, 8, 1), 5, depth=8, width=2, unit="basic", dtype="float64")
    scattered(model)
    x = np.random.default_rng(0).random((2, 8, 8, 1))
    y = convolved(x, model.body[0])
    for unit in model.body[1:-1]:
        y = unit(y, training=False).numpy()
    assert y.shape == (2, 2, 2, 8)
    pooled = rectified(y, model.body[-1]).mean((1, 2))
    truth = pooled @ model.logits.kernel.numpy() + model.logits.bias.numpy()
    np.testing.assert_allclose(model(x), truth, rtol=1e-9)


def test_resnet_164_has_its_published_size():
    model = ResNet((32, 32, 3), 10, ema_momentum=None)
    convolutions = [v for v in model.trainable_variables if len(v.shape) == 4]
    shortcuts = [v for v in convolutions if "shortcut" in v.path]
    assert len(convolutions) - len(shortcuts) + 1 == 164
    assert parameter_count(model) == pytest.approx(1.7e6, rel=0.02)  # He et al., table 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 12}, r"depth must be 9 n \+ 2 for bottleneck units, such as 11 or 164, got 12"),
        ({"depth": 2}, "depth must be 9 n"),
        ({"depth": 9, "unit": "basic"}, r"depth must be 6 n \+ 2 for basic units"),
        ({"unit": "plain"}, 'unit must be "bottleneck" or "basic", got \'plain\''),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"classes": 1}, "classes must be an integer of at least 2, got 1"),
        ({"event_shape": (8, 8)}, r"event_shape must be \(height, width, channels\)"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    arguments = {"event_shape": (8, 8, 1), "classes": 3, "depth": 11, "width": 4}
    with pytest.raises(ValueError, match=message):
        ResNet(**{**arguments, **changes})


def test_a_file_keeps_the_model(tmp_path):
    model = ResNet((4, 4, 1), 3, depth=8, width=2, unit="basic", name="mine")
    scattered(model)
    x = np.random.default_rng(0).random((2, 4, 4, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


CHANGES = (
    "dataset=digits",
    "model.architecture=resnet",
    "model.unit=basic",
    "model.depth=8",
    "model.width=4",
    *(change for change in TINY if not change.startswith("model.")),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "resnet"
    experiment = load_experiment(
        "mnist_classifier_c09", [*CHANGES, "batch_size=32", "interval=8"], steps=16
    )
    train(experiment, folder, verbose=0)
    return open_finished(folder)


def test_it_trains_and_is_measured(finished):
    history = [record["loss"] for record in finished.run.history()]
    assert history[-1] < history[0]
    results = evaluate(finished, limit=100)
    assert results["error_percent"] < 85
    assert results["certified_lipschitz"] is None
    images = finished.dataset.arrays("test").x[:100] / np.float32(16)
    found = finished.model(tf.constant(images)).numpy().argmax(1)
    error = 100 * np.mean(found != finished.dataset.arrays("test").y[:100])
    assert results["error_percent"] == pytest.approx(error)


def test_what_needs_an_inverse_is_refused(finished, tmp_path):
    message = "mnist_classifier_c09 is a ResNet, which has no inverse; give the folder of"
    for act in (
        lambda: write_reconstructions(finished, tmp_path / "r.png"),
        lambda: certify_run(finished),
        lambda: write_saved_model(finished, tmp_path / "1"),
    ):
        with pytest.raises(RunError, match=message):
            act()


# --- the settings and the cells of the table ---


def test_settings_without_the_key_are_the_invertible_one_s():
    settings = load_experiment("mnist_classifier_c09").model_dump(mode="json")
    del settings["model"]["architecture"]  # older runs have none
    model = parse_experiment(settings).model
    assert isinstance(model, ClassifierModel)
    assert model == load_experiment("mnist_classifier_c09").model


def test_another_architecture_has_other_settings():
    settings = load_experiment("cifar10_classifier_resnet").model_dump(mode="json")
    assert parse_experiment(settings).model == ResNetModel(ema_momentum=0.99)
    settings["model"]["coeff"] = 0.9
    with pytest.raises(RunError, match=r"setting 'model\.coeff' does not exist"):
        parse_experiment(settings)
    changed = load_experiment("mnist_classifier_c09", ["model.architecture=resnet"])
    assert changed.model == ResNetModel(ema_momentum=0.99)  # what all classifiers have stays
    with pytest.raises(RunError, match=r"setting model\.architecture='vgg'"):
        load_experiment("mnist_classifier_c09", ["model.architecture=vgg"])


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_the_cells_of_a_table_differ_by_the_constraint_and_the_rates_of_those_without(name):
    cells, rates = {}, {}
    for cell in ("c09", "c08", "c07", "c06", "c05", "vanilla", "resnet"):
        settings = load_experiment(f"{name}_classifier_{cell}", steps=1000).model_dump()
        del settings["name"], settings["description"]
        cells[cell] = settings
        rates[cell] = settings["optimizer"].pop("learning_rate")
    models = {cell: settings.pop("model") for cell, settings in cells.items()}
    assert all(a == b for a, b in itertools.pairwise(cells.values()))
    resnet = models.pop("resnet")
    assert (resnet["architecture"], resnet["depth"]) == ("resnet", 164)
    assert resnet["ema_momentum"] == models["c09"]["ema_momentum"]
    own = ("vanilla", "resnet")
    assert len({rate for cell, rate in rates.items() if cell not in own}) == 1
    coeffs = [model.pop("coeff") for model in models.values()]
    assert coeffs == [0.9, 0.8, 0.7, 0.6, 0.5, None]
    assert all(a == b for a, b in itertools.pairwise(models.values()))
