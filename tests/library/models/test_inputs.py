"""What models refuse, and that they say what to do instead."""

import keras
import numpy as np
import pytest

from tests.library import small_models as small
from tf_iresnet.models import IResNetClassifier, IResNetFlow

pytestmark = pytest.mark.quick

FLOW = {
    "event_shape-int": ({"event_shape": 4}, "event_shape must hold an integer .* got 4"),
    "event_shape-zero": (
        {"event_shape": (4, 0, 1)},
        r"event_shape .* at least 1 .* got \(4, 0, 1\)",
    ),
    "event_shape-empty": ({"event_shape": ()}, r"event_shape .* got \(\)"),
    "event_shape-long": ({"event_shape": (2,) * 5}, r"event_shape must be \(d,\), or one to three"),
    "odd size": ({"event_shape": (5, 4, 1)}, r"spatial sizes \(5, 4\) .* pad or crop"),
    "odd later": ({"event_shape": (6, 6, 1)}, r"spatial sizes \(3, 3\) .* fewer squeezes"),
    "coeff-zero": ({"coeff": 0.0}, r"coeff must lie in \(0, 1\), or be None .* got 0.0"),
    "coeff-one": ({"coeff": 1.0}, r"coeff must lie in \(0, 1\), or be None .* got 1.0"),
    "coeff-text": ({"coeff": "0.9"}, r"coeff must lie in \(0, 1\), or be None .* got '0.9'"),
    "levels-one": ({"levels": 1}, "levels must be an integer of at least 2, got 1"),
    "levels-half": ({"levels": 2.5}, "levels must be an integer of at least 2, got 2.5"),
    "levels-text": ({"levels": "8"}, "levels must be an integer of at least 2, got '8'"),
    "no levels": (
        {"levels": None, "preprocessing": "shift"},
        "preprocessing='shift' needs the number of levels, got levels=None; give it",
    ),
    "preprocessing": ({"preprocessing": "log"}, "preprocessing must be .* None.*, got 'log'"),
    "alpha": ({"alpha": 0.5}, r"alpha must lie in \(0, 0.5\), got 0.5"),
    "prior": ({"prior": "normal"}, "prior must be one of .*'learned'.* got 'normal'"),
    "activation": ({"activation": "relu"}, "activation must be one of .*lipswish.* got 'relu'"),
    "blocks-int": ({"blocks": 2}, "blocks must hold an integer .* for each scale, got 2"),
    "blocks-zero": ({"blocks": (1, 0)}, r"blocks must hold .* at least 1 .* got \(1, 0\)"),
    "blocks-none": ({"blocks": ()}, r"blocks must hold an integer .* got \(\)"),
    "hidden-count": ({"hidden": (8, 8, 8)}, r"each of the 2 scales of blocks, got \(8, 8, 8\)"),
    "hidden-zero": ({"hidden": 0}, "hidden must be an integer of at least 1, got 0"),
    "hidden-text": ({"hidden": "8"}, "hidden must hold an integer .* got '8'"),
    "kernel_sizes": ({"kernel_sizes": 3}, "kernel_sizes must hold an integer .* got 3"),
    "power_iterations": (
        {"power_iterations": -1},
        "power_iterations must be .* at least 1, got -1",
    ),
    "ema-one": ({"ema_momentum": 1.0}, r"ema_momentum must lie in \(0, 1\), or be None .* got 1.0"),
    "ema-text": ({"ema_momentum": "x"}, r"ema_momentum must lie in \(0, 1\), .* got 'x'"),
    "log_det": ({"log_det": "exact"}, r"log_det must be a LogDetEstimator such as Exact\(\), got"),
    "eval_log_det": ({"eval_log_det": 5}, "eval_log_det must be a LogDetEstimator .* got 5"),
    "solver": ({"solver": "picard"}, r"solver must be a Solver such as Picard\(\), got 'picard'"),
    "seed": ({"seed": "a"}, "seed must be an integer, got 'a'"),
    "halves": (
        {"event_shape": (3,), "levels": None, "factor_out": True},
        "ends with 3 channels, which do not halve; .* factor_out=False",
    ),
}

CLASSIFIER = {
    "event_shape": ({"event_shape": (4, 4)}, r"event_shape must be \(height, width, channels\)"),
    "classes": ({"classes": 1}, "classes must be an integer of at least 2, got 1"),
    "classes-text": ({"classes": "3"}, "classes must be an integer of at least 2, got '3'"),
    "padding": ({"padding": -1}, "padding must be an integer of at least 0, got -1"),
    "padding-half": ({"padding": 0.5}, "padding must be an integer of at least 0, got 0.5"),
    "coeff": ({"coeff": 1.5}, r"coeff must lie in \(0, 1\)"),
    "hidden": ({"hidden": (8,)}, "hidden must be one integer or one for each of the 2 scales"),
    "odd size": ({"event_shape": (4, 5, 1)}, "spatial sizes .* pad or crop"),
    "activation": ({"activation": "gelu"}, "activation must be one of"),
    "ema": ({"ema_momentum": 0.0}, r"ema_momentum must lie in \(0, 1\)"),
    "solver": ({"solver": None.__class__}, "solver must be a Solver"),
}


def refused(make, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("changes", "message"), FLOW.values(), ids=FLOW)
def test_a_flow_refuses_wrong_arguments(changes, message):
    arguments = {"event_shape": small.EVENT, "levels": 8, "blocks": (1, 1), "hidden": 4}
    refused(IResNetFlow, {**arguments, **changes}, message)


@pytest.mark.parametrize(("changes", "message"), CLASSIFIER.values(), ids=CLASSIFIER)
def test_a_classifier_refuses_wrong_arguments(changes, message):
    arguments = {"event_shape": small.EVENT, "classes": 3, "blocks": (1, 1), "hidden": 4}
    refused(IResNetClassifier, {**arguments, **changes}, message)


@pytest.fixture(scope="module")
def flow():
    return small.flow(blocks=(1,), hidden=4)


@pytest.fixture(scope="module")
def classifier():
    return small.classifier(blocks=(1,), hidden=4)


def spoiled(value):
    x = small.pixels(2)
    x[1, 2, 3, 0] = value
    return x


DATA = {
    "one image": (small.pixels(1)[0], r"x must have the shape \[batch, 4, 4, 1\], got \(4, 4, 1\)"),
    "other size": (np.zeros((2, 4, 6, 1)), r"x must have the shape \[batch, 4, 4, 1\], got"),
    "flat": (np.zeros((2, 16)), r"x must have the shape \[batch, 4, 4, 1\], got \(2, 16\)"),
    "NaN": (spoiled(np.nan), "x holds NaN or infinite values; remove"),
    "infinity": (spoiled(-np.inf), "x holds NaN or infinite values; remove"),
}
RANGE = {
    "negative": (spoiled(-0.5), r"x must lie in \[0, 8\), .* got values from -0.5 to"),
    "above": (spoiled(8.5), r"x must lie in \[0, 8\), pixels plus dequantisation noise.* to 8.5"),
    "8-bit": (np.full((2, 4, 4, 1), 255, "uint8"), r"x must lie in \[0, 8\), .* to 255"),
}


@pytest.mark.parametrize(("x", "message"), [*DATA.values(), *RANGE.values()], ids=[*DATA, *RANGE])
@pytest.mark.parametrize("name", ["log_prob", "bits_per_dim", "encode", "adapt"])
def test_a_flow_refuses_wrong_data(flow, name, x, message):
    refused(getattr(flow, name), {"data" if name == "adapt" else "x": x}, message)


@pytest.mark.parametrize(("x", "message"), DATA.values(), ids=DATA)
@pytest.mark.parametrize("name", ["__call__", "encode", "adapt"])
def test_a_classifier_refuses_wrong_data(classifier, name, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(classifier, name)(x)


@pytest.mark.parametrize("x", [spoiled(np.nan), spoiled(9.0)], ids=["NaN", "range"])
def test_fit_refuses_a_wrong_first_batch(x):
    model = small.flow(blocks=(1,), hidden=4)
    model.compile("adam")
    with pytest.raises(ValueError, match=r"x (holds NaN|must lie in \[0, 8\))"):
        model.fit(x, verbose=0)
    assert not model.initialized


def test_fit_needs_compile(flow):
    with pytest.raises(ValueError, match="compile"):
        flow.fit(small.pixels(2), verbose=0)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_sample_needs_a_number(flow, n):
    refused(flow.sample, {"n": n}, f"n must be an integer of at least 1, got {n!r}")


@pytest.mark.parametrize("temperature", [-0.1, np.inf, np.nan, "1"])
def test_sample_needs_a_temperature(flow, temperature):
    message = "temperature must be a finite number of at least 0, got"
    refused(flow.sample, {"n": 1, "temperature": temperature}, message)


def test_log_prob_needs_an_estimator(flow):
    arguments = {"x": small.pixels(1), "log_det": "exact"}
    refused(flow.log_prob, arguments, r"log_det must be a LogDetEstimator such as Exact\(\)")


def test_log_prob_needs_a_seed_of_up_to_three_words(flow):
    refused(flow.log_prob, {"x": small.pixels(1), "seed": [1, 2, 3, 4]}, "seed must be an integer")


def test_decode_needs_latents_of_its_size(flow, classifier):
    message = r"z must have the shape \[batch, 16\], got \(2, 15\)"
    refused(flow.decode, {"z": np.zeros((2, 15))}, message)
    message = r"features must have the shape \[batch, 4, 4, 2\], got \(2, 2, 2, 8\)"
    refused(classifier.decode, {"features": np.zeros((2, 2, 2, 8))}, message)


def test_float64_data_is_taken(flow):
    assert flow.encode(small.pixels(2).astype("float64")).dtype == "float32"


def test_an_unknown_keyword_is_keras_s_error():
    with pytest.raises(ValueError, match="Unrecognized keyword arguments"):
        small.flow(widths=3)
    assert isinstance(small.flow(name="mine", blocks=(1,)), keras.Model)
