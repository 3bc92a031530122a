"""Exported models, read in a process that knows TensorFlow alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.library import small_models as small
from tf_iresnet import certify
from tf_iresnet.export import export_saved_model
from tf_iresnet.layers import ActNorm, InvertibleResidual, SpectralDense

SMALL = {"hidden": 4, "kernel_sizes": (3, 1), "ema_momentum": 0.9}
READER = Path(__file__).parents[1] / "data" / "export_reader.py"
X = small.pixels(17, seed=3)


@pytest.fixture(scope="module")
def flow():
    model = small.flow(blocks=(1,), coeff=0.9, **SMALL)
    return small.train(model, small.pixels(32), 2)


@pytest.fixture(scope="module")
def classifier():
    model = small.classifier(blocks=(1,), **SMALL)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, run_eagerly=True)
    model.adapt(X)
    model.train_step((X, np.arange(17) % 3))
    return model


@pytest.fixture(scope="module")
def hybrid():
    model = small.hybrid(factor_out=True, **{**SMALL, "kernel_sizes": (1,)})
    return small.train(model, (X, np.arange(17) % 3), 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, flow, classifier, hybrid):
    folder = tmp_path_factory.mktemp("saved")
    flow.export(str(folder / "flow" / "1"))  # the same by Keras' name
    export_saved_model(classifier, folder / "classifier" / "1")
    export_saved_model(hybrid, folder / "hybrid" / "1")
    return folder


@pytest.fixture(scope="module")
def far(flow):
    """Latents of which the second has no preimage that float32 could hold."""
    z = flow.encode(X[:3]).numpy()
    z[1] = 3e38
    return z


@pytest.fixture(scope="module")
def outputs(folder, far):
    np.savez(folder / "inputs.npz", x=X, far=far)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, READER, folder],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    foreign, signatures = done.stdout.splitlines()[-2:]
    assert foreign == "[]"
    assert signatures == (
        "['decode', 'encode', 'log_prob', 'reconstruct', 'sample', 'serving_default'] "
        "['classify', 'decode', 'encode', 'reconstruct', 'serving_default'] "
        "['classify', 'decode', 'encode', 'log_prob', 'predict', 'reconstruct', 'sample', "
        "'serving_default']"
    )
    with np.load(folder / "outputs.npz") as arrays:
        return dict(arrays)


sizes = pytest.mark.parametrize("count", [1, 3, 17])


@sizes
def test_latents_are_the_model_s(outputs, flow, count):
    np.testing.assert_allclose(
        outputs[f"encode {count}/z"], flow.encode(X[:count]), rtol=1e-6, atol=1e-6
    )


@sizes
def test_densities_are_the_model_s(outputs, flow, count):
    truth = flow.log_prob(X[:count], seed=5)
    np.testing.assert_allclose(outputs[f"log_prob {count}/log_prob"], truth, rtol=0, atol=1e-3)
    bits = flow.bits_per_dim(X[:count], seed=5)
    np.testing.assert_allclose(outputs[f"log_prob {count}/bits_per_dim"], bits, atol=1e-4)


@sizes
def test_latents_decode_to_images(outputs, flow, count):
    decoded = outputs[f"decode {count}/x"]
    truth = flow.decode(outputs[f"encode {count}/z"])
    np.testing.assert_allclose(decoded, truth, rtol=0, atol=1e-5)
    np.testing.assert_allclose(decoded, X[:count], rtol=0, atol=1e-4)
    assert outputs[f"decode {count}/converged"].all()


def test_bounds_of_errors_hold_of_what_is_decoded(outputs, flow):
    ours = flow.decode(outputs["encode 17/z"], return_result=True)
    bound = outputs["decode 17/error_bound"]
    assert bound.dtype == np.float64
    assert np.isfinite(bound).all()
    distance = np.sqrt(np.square(outputs["decode 17/x"] - ours.x).sum((1, 2, 3), dtype="float64"))
    assert (distance <= bound + ours.error_bound.numpy()).all()
    np.testing.assert_allclose(bound, ours.error_bound, rtol=2)


def test_what_does_not_converge_is_nan(outputs):
    np.testing.assert_array_equal(outputs["decode far/converged"], [True, False, True])
    assert np.isnan(outputs["decode far/x"][1]).all()
    np.testing.assert_allclose(outputs["decode far/x"][[0, 2]], X[[0, 2]], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_are_the_model_s(outputs, flow, temperature):
    samples = outputs[f"sample {temperature}/x"]
    np.testing.assert_allclose(samples, flow.sample(4, 7, temperature), atol=1e-4)
    assert outputs[f"sample {temperature}/converged"].all()
    assert (samples.max(0) > samples.min(0)).any() == (temperature > 0)


@sizes
def test_logits_are_the_model_s(outputs, classifier, count):
    logits = classifier(X[:count]).numpy()
    np.testing.assert_allclose(outputs[f"classify {count}/logits"], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs[f"classify {count}/label"], logits.argmax(1))


def test_a_hybrid_gives_both_numbers(outputs, hybrid):
    log_prob, logits = hybrid.log_prob_and_logits(X, seed=5)
    np.testing.assert_allclose(outputs["hybrid density/log_prob"], log_prob, rtol=0, atol=1e-3)
    both = {key: outputs[f"hybrid both/{key}"] for key in ("log_prob", "bits_per_dim", "logits")}
    np.testing.assert_allclose(both["log_prob"], log_prob, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(both["bits_per_dim"], hybrid.to_bits(log_prob), rtol=1e-4)
    np.testing.assert_allclose(both["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["hybrid classes/logits"], logits, rtol=1e-5, atol=1e-5)
    labels = np.argmax(logits, axis=1)
    for name in ("classes", "both"):
        np.testing.assert_array_equal(outputs[f"hybrid {name}/label"], labels)
    assert outputs["hybrid serves"].tolist() == [
        "bits_per_dim", "label", "log_prob", "logits", "probabilities", "valid"
    ]  # fmt: skip
    np.testing.assert_allclose(outputs["hybrid latents/z"], hybrid.encode(X), atol=1e-5)
    np.testing.assert_allclose(outputs["hybrid images/x"], X, atol=1e-4)


def test_features_are_the_model_s(outputs, classifier):
    truth = classifier.encode(X)
    np.testing.assert_allclose(outputs["features/features"], truth, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(outputs["images/x"], X, atol=1e-4)
    assert outputs["images/converged"].all()


def test_each_weight_is_stored_once_and_averages_not_at_all(folder, flow):
    stored = tf.train.list_variables(str(folder / "flow" / "1" / "variables" / "variables"))
    shapes = sorted(tuple(shape) for name, shape in stored if name.endswith("VARIABLE_VALUE"))
    weights = flow.flow.trainable_variables + flow.prior.trainable_variables
    assert shapes == sorted(tuple(v.shape) for v in weights)


def test_kernels_are_stored_normalised(folder, flow):
    path = str(folder / "flow" / "1" / "variables" / "variables")
    stored = [
        tf.train.load_variable(path, name)
        for name, _ in tf.train.list_variables(path)
        if name.endswith("VARIABLE_VALUE")
    ]
    for layer in flow.flow.spectral_layers():
        norm = np.linalg.norm(layer.kernel)
        assert np.linalg.norm(layer.normalized_kernel()) < norm
        kernels = [x for x in stored if x.shape == layer.kernel.shape]
        assert any(np.array_equal(x, layer.normalized_kernel()) for x in kernels)
        assert not any(np.array_equal(x, layer.kernel) for x in kernels)


def test_an_export_holds_the_norms_of_its_own_weights(tmp_path):
    model = small.classifier(blocks=(1,), **SMALL)
    for layer in model.flow.spectral_layers():
        layer.kernel.assign(3 * layer.kernel)  # nobody has called the layer since
    export_saved_model(model, tmp_path / "1")
    x = small.pixels(2)
    encode = tf.saved_model.load(str(tmp_path / "1")).signatures["encode"]
    np.testing.assert_allclose(encode(x=x)["features"], model.encode(x), rtol=0, atol=1e-5)


def test_a_graph_is_written_once_and_without_gradients(folder):
    written = saved_model_pb2.SavedModel()
    written.ParseFromString((folder / "flow" / "1" / "saved_model.pb").read_bytes())
    functions = written.meta_graphs[0].graph_def.library.function
    names = [function.signature.name for function in functions]
    for signature in ("encode", "decode", "log_prob", "sample"):
        assert sum(f"__inference_{signature}_" in name for name in names) == 1
    assert not any("internal_grad_fn" in name for name in names)


def test_differentiating_what_was_loaded_raises(outputs):
    assert "No gradient defined" in str(outputs["gradient"])


def test_a_certificate_of_the_exported_weights_stands_beside_them(folder, flow, classifier):
    for name, model in (("flow", flow), ("classifier", classifier)):
        content = json.loads((folder / name / "1" / "certificate.json").read_text())
        assert content["model"] == model.name
        assert content["blocks"][0]["parts"]
    assert content["contraction"] == certify(classifier).contraction


def test_an_existing_folder_is_refused(tmp_path, flow):
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"path '.*' exists already; give another version"):
        export_saved_model(flow, tmp_path / "1")
    assert not os.listdir(tmp_path / "1")


def test_another_model_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="IResNetFlow, IResNetClassifier or IResNetHybrid, got Sequential"
    ):
        export_saved_model(keras.Sequential(), tmp_path / "1")
    assert not os.listdir(tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def write_half(module, path, **options):
        os.makedirs(path)
        Path(path, "saved_model.pb").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", write_half)
    model = small.classifier(blocks=(1,), **SMALL)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, tmp_path / "1")
    assert not os.listdir(tmp_path)


def test_export_by_keras_name_is_the_same(tmp_path, capsys):
    model = small.classifier(blocks=(1,), **SMALL)  # built, and never called
    model.export(tmp_path / "1", verbose=True)
    assert str(tmp_path / "1") in capsys.readouterr().out
    export_saved_model(model, tmp_path / "2")
    x = tf.constant(small.pixels(3))
    loaded = [tf.saved_model.load(str(tmp_path / name)) for name in "12"]
    assert set(loaded[0].signatures) == set(loaded[1].signatures)
    np.testing.assert_array_equal(*(each.signatures["classify"](x=x)["logits"] for each in loaded))
    assert (tmp_path / "1" / "certificate.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "format must be .* got 'onnx'"),
        ({"input_signature": [tf.TensorSpec((None, 2))]}, "input_signature is not used .* leave"),
        ({"opset_version": 18}, "opset_version is not used .* got 18; leave"),
    ],
)
def test_export_refuses_what_it_does_not_use(tmp_path, options, message):
    model = small.flow((2,), levels=None, blocks=(1,), hidden=4)
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "1", **options)
    assert not list(tmp_path.iterdir())


def test_a_stock_model_of_the_layers_is_exported_by_keras(tmp_path):
    inputs = keras.Input((4,))
    block = InvertibleResidual(hidden=4, kernel_sizes=(1, 1))
    model = keras.Model(inputs, SpectralDense(2)(block(ActNorm()(inputs))))
    x = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)
    model.export(tmp_path / "1", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-5, atol=1e-6)
