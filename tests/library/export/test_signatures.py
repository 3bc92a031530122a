"""What exported signatures promise: answers of an example and its seed, refusals, bytes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tests.library import small_models as small
from tf_iresnet import randomness
from tf_iresnet.export import export_saved_model
from tf_iresnet.log_det import Exact, PowerSeries
from tf_iresnet.models.training.pixels import have_density

BYTES = np.random.default_rng(0).integers(0, small.LEVELS, (5, 4, 4, 1)).astype("uint8")
X = small.pixels(5, seed=1)
SMALL = {"blocks": (1,), "hidden": 4, "kernel_sizes": (3, 1)}
CONTEXT = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1]]


def exported(model, folder, **options):
    export_saved_model(model, folder / "1", **options)
    loaded = tf.saved_model.load(folder / "1")
    call = {}
    for name, function in loaded.signatures.items():
        call[name] = lambda function=function, **tensors: {
            key: value.numpy() for key, value in function(**tensors).items()
        }
    call["loaded"] = loaded  # its variables live as long as it does
    return call


@pytest.fixture(scope="module")
def flow():
    return small.train(small.flow(**SMALL, eval_log_det=PowerSeries(4)), small.pixels(32), 2)


@pytest.fixture(scope="module")
def floats(flow, tmp_path_factory):
    return exported(flow, tmp_path_factory.mktemp("floats"), probes=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "digits"


@pytest.fixture(scope="module")
def bytes_(flow, folder):
    return exported(flow, folder, images="uint8")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    model = small.flow(**SMALL, context_size=3, eval_log_det=Exact())
    small.train(model, (small.pixels(6), np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]), 1)
    return model, exported(model, tmp_path_factory.mktemp("conditional"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    model = small.classifier(**SMALL)
    model.adapt(BYTES / np.float32(255))
    return model, exported(model, tmp_path_factory.mktemp("classifier"), images="uint8")


# --- seeds and draws ---


def test_an_example_s_answer_is_of_its_own_seed(bytes_, flow):
    seeds = np.array([3, 4, 3, -5, 2**31 - 1], "int32")
    together = bytes_["log_prob"](x=BYTES, seed=seeds)["log_prob"]
    for index, seed in enumerate(seeds):
        alone = bytes_["log_prob"](x=BYTES[index : index + 1], seed=seed)["log_prob"]
        np.testing.assert_allclose(alone, together[index : index + 1], rtol=0, atol=1e-4)
    same = bytes_["log_prob"](x=BYTES, seed=np.int32(3))["log_prob"]
    np.testing.assert_allclose(same, flow.log_prob(BYTES, seed=3), rtol=0, atol=1e-3)
    differ = np.abs(same - together)
    assert (differ[[1, 3, 4]] > 1e-3).all()
    assert (differ[[0, 2]] < 1e-4).all()


def test_the_mean_of_several_draws_has_its_standard_error(floats, flow):
    keys = randomness.keys_of_seeds(tf.fill([5], 9), tf.constant(X))
    draws = np.stack([flow.log_prob(X, randomness.fold_in(keys, i)) for i in range(6)])
    out = floats["log_prob"](x=X, seed=np.int32(9))
    np.testing.assert_allclose(out["log_prob"], draws.mean(0), rtol=0, atol=1e-3)
    error = draws.std(0, ddof=1) / np.sqrt(6)
    assert error.min() > 1e-3
    np.testing.assert_allclose(out["standard_error"], error, rtol=0.02, atol=1e-4)


# --- what is no example ---


SPOILT = {
    "NaN": lambda x: np.where(np.arange(16).reshape(4, 4, 1) == 3, np.nan, x),
    "infinity": lambda x: np.where(np.arange(16).reshape(4, 4, 1) == 3, np.inf, x),
    "below": lambda x: x - 4,
    "above": lambda x: x + 4,
}
NO_DENSITY = {**SPOILT, "whole": np.floor, "scaled": lambda x: np.round(x) / (small.LEVELS - 1)}


@pytest.mark.parametrize("kind", NO_DENSITY)
def test_what_is_no_example_is_marked(floats, kind):
    x = X.copy()
    x[2] = NO_DENSITY[kind](x[2])
    good = np.arange(5) != 2
    before, out = (floats["log_prob"](x=each, seed=np.int32(1)) for each in (X, x))
    np.testing.assert_array_equal(out["valid"], good)
    assert before["valid"].all()
    for name in ("log_prob", "bits_per_dim", "standard_error"):
        assert np.isnan(out[name][2])
        np.testing.assert_allclose(out[name][good], before[name][good], rtol=0, atol=1e-4)
    encoded = floats["encode"](x=x)
    np.testing.assert_array_equal(encoded["valid"], good if kind in SPOILT else np.full(5, True))
    assert np.isnan(encoded["z"][2]).all() == (kind in SPOILT)
    assert np.isfinite(encoded["z"][good]).all()
    again = floats["reconstruct"](x=x)
    np.testing.assert_array_equal(again["valid"], encoded["valid"])
    assert np.isnan(again["x"][2]).all() == np.isnan(again["largest_error"][2]) == (kind in SPOILT)


def test_a_black_image_with_noise_is_an_example():
    """Its values are uniform on [0, 1); those of a scaled image are not."""
    black = np.random.default_rng(5).random((100, 28, 28, 1)).astype("float32")
    assert have_density(tf.constant(black), 256).numpy().all()
    assert not have_density(tf.constant(black**2), 256).numpy().any()


def test_latents_that_are_no_numbers_do_not_converge(floats):
    z = floats["encode"](x=X)["z"]
    z[1, 3] = np.nan
    out = floats["decode"](z=z)
    np.testing.assert_array_equal(out["converged"], np.arange(5) != 1)
    assert np.isnan(out["x"][1]).all()


REFUSED = {
    "rank": ("encode", {"x": X[0]}, r"x must have the shape \[batch, 4, 4, 1\]"),
    "higher rank": ("encode", {"x": X[None]}, r"x must have the shape \[batch, 4, 4, 1\]"),
    "size": ("encode", {"x": X[:, :3]}, r"x must have the shape \[batch, 4, 4, 1\]"),
    "latents": ("decode", {"z": np.zeros((2, 15), "float32")}, r"z must have the shape"),
    "empty": ("encode", {"x": X[:0]}, "x holds no example; give at least one"),
    "empty latents": ("decode", {"z": np.zeros((0, 16), "float32")}, "z holds no example"),
    "seeds": ("log_prob", {"x": X, "seed": np.arange(3, dtype="int32")}, "one for each example"),
    "n": (
        "sample",
        {"n": np.int32(0), "seed": np.int32(1), "temperature": np.float32(1)},
        "n must be at least 1",
    ),
    "temperature": (
        "sample",
        {"n": np.int32(2), "seed": np.int32(1), "temperature": np.float32(-1)},
        "temperature must be a finite number of at least 0",
    ),
    "temperature NaN": (
        "sample",
        {"n": np.int32(2), "seed": np.int32(1), "temperature": np.float32("nan")},
        "temperature must be a finite number of at least 0",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_answered_is_refused(floats, kind):
    name, tensors, words = REFUSED[kind]
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        floats[name](**{key: tf.constant(value) for key, value in tensors.items()})


# --- bytes ---


def test_bytes_go_in_and_come_out(bytes_, flow):
    encoded = bytes_["encode"](x=BYTES)
    np.testing.assert_allclose(encoded["z"], flow.encode(BYTES), rtol=0, atol=1e-5)
    decoded = bytes_["decode"](z=encoded["z"])
    assert decoded["x"].dtype == np.uint8
    np.testing.assert_array_equal(decoded["x"], BYTES)
    again = bytes_["reconstruct"](x=BYTES)
    np.testing.assert_array_equal(again["x"], BYTES)
    np.testing.assert_array_equal(again["largest_error"], np.zeros(5))
    drawn = bytes_["sample"](n=np.int32(4), seed=np.int32(7), temperature=np.float32(1))
    np.testing.assert_array_equal(drawn["x"], np.floor(flow.sample(4, 7)).astype("uint8"))


def test_bytes_beyond_the_levels_are_marked(bytes_):
    x = BYTES.copy()
    x[3, 0, 0, 0] = small.LEVELS
    for out in (bytes_["encode"](x=x), bytes_["log_prob"](x=x, seed=np.int32(1))):
        np.testing.assert_array_equal(out["valid"], np.arange(5) != 3)


def test_what_failed_is_0_as_bytes(bytes_):
    z = bytes_["encode"](x=BYTES)["z"]
    z[1] = np.nan
    out = bytes_["decode"](z=z)
    np.testing.assert_array_equal(out["converged"], np.arange(5) != 1)
    assert not out["x"][1].any()


def test_a_classifier_of_bytes(classifier):
    model, call = classifier
    logits = model(BYTES / np.float32(255)).numpy()
    out = call["classify"](x=BYTES)
    np.testing.assert_allclose(out["logits"], logits, rtol=1e-5, atol=1e-5)
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(out["probabilities"], truth, rtol=1e-5)
    np.testing.assert_array_equal(out["label"], logits.argmax(1))
    assert out["valid"].all()
    again = call["reconstruct"](x=BYTES)
    np.testing.assert_array_equal(again["x"], BYTES)


def test_a_class_of_what_is_no_image_is_none(tmp_path):
    model = small.classifier(**SMALL)
    x = X.copy()
    x[0, 0, 0, 0] = np.nan
    out = exported(model, tmp_path)["classify"](x=x)
    np.testing.assert_array_equal(out["valid"], np.arange(5) != 0)
    assert out["label"][0] == -1
    assert np.isnan(out["probabilities"][0]).all()
    assert (out["label"][1:] >= 0).all()


# --- contexts ---


def test_reconstruction_and_density_of_a_context(conditional):
    model, call = conditional
    truth = model.log_prob(X, seed=2, context=CONTEXT)
    context = CONTEXT.copy()
    out = call["log_prob"](x=X, seed=np.int32(2), context=context)
    np.testing.assert_allclose(out["log_prob"], truth, rtol=0, atol=1e-3)
    again = call["reconstruct"](x=X, context=context)
    np.testing.assert_allclose(again["x"], X, rtol=0, atol=1e-4)
    error = np.abs(again["x"] - X).max((1, 2, 3))
    np.testing.assert_allclose(again["largest_error"], error, rtol=1e-3, atol=1e-7)
    context[4, 0] = np.nan
    out = call["log_prob"](x=X, seed=np.int32(2), context=context)
    np.testing.assert_array_equal(out["valid"], np.arange(5) != 4)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "png"}, "images must be one of .*, got 'png'"),
        ({"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ({"images": "uint8"}, "images='uint8' is for images of at most 256 levels"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    model = small.flow((2,), levels=None, blocks=(1,), hidden=4)
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "1", **options)
    assert not list(tmp_path.iterdir())


def test_bytes_need_levels(tmp_path):
    model = small.flow(**SMALL, levels=None)
    with pytest.raises(ValueError, match="densities of images with levels"):
        export_saved_model(model, tmp_path / "1", images="uint8")


# --- what stands beside ---


def test_a_configuration_makes_the_model_again(bytes_, folder, flow):
    content = json.loads((folder / "1" / "config.json").read_text())
    again = keras.saving.deserialize_keras_object(content["model"])
    assert again.get_config() == flow.get_config()
    assert content["preprocessing"] == {
        "x": "uint8",
        "event_shape": [4, 4, 1],
        "levels": small.LEVELS,
        "kind": "logit",
        "noise": "inside",
    }
    signatures = bytes_["loaded"].signatures
    assert set(content["signatures"]) | {"serving_default"} == set(signatures)
    for name, written in content["signatures"].items():
        function = signatures[name]
        inputs = function.structured_input_signature[1]
        for shown, specs in (("inputs", inputs), ("outputs", function.structured_outputs)):
            assert set(written[shown]) == set(specs)
            for key, spec in specs.items():
                assert written[shown][key]["dtype"] == spec.dtype.name
        assert f"`{name}`" in (folder / "1" / "README.md").read_text()


def test_requests_warm_every_signature_up(bytes_, folder):
    """Read by the numbers of the fields alone, as another program would."""
    signatures = bytes_["loaded"].signatures
    file = folder / "1" / "assets.extra" / "tf_serving_warmup_requests"
    warmed = set()
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        ((number, log),) = fields(record)
        assert number == 6  # predict_log
        ((number, request),) = fields(log)
        assert number == 1
        (_, spec), *entries = fields(request)
        assert dict(fields(spec))[1] == b"digits"
        name = dict(fields(spec))[3].decode()
        tensors = {}
        for number, entry in entries:
            assert number == 2
            key, value = (dict(fields(entry))[i] for i in (1, 2))
            tensor = tensor_pb2.TensorProto.FromString(value)
            tensors[key.decode()] = tf.constant(tf.make_ndarray(tensor))
        out = signatures[name](**tensors)
        assert all(out[key].numpy().all() for key in ("valid", "converged") if key in out)
        warmed.add(name)
    assert warmed | {"serving_default"} == set(signatures)


def fields(message: bytes):
    """The fields of a message whose values have lengths: their numbers and bytes."""
    found, at = [], 0
    while at < len(message):
        tag, at = varint(message, at)
        assert tag & 7 == 2
        size, at = varint(message, at)
        found.append((tag >> 3, message[at : at + size]))
        at += size
    return found


def varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
