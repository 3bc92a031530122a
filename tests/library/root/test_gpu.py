"""A training step, densities, inverses and an export on a GPU, compiled and in mixed precision.

TF_IRESNET_GPU_SUITE_ON_CPU=1 runs them without a GPU, which takes minutes: XLA compiles slowly
for a CPU.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tf_iresnet.export import export_saved_model
from tf_iresnet.log_det import Exact, PowerSeries

X = small.pixels(32)
ON_CPU = os.environ.get("TF_IRESNET_GPU_SUITE_ON_CPU") == "1"
DEVICE = "CPU:0" if ON_CPU else "GPU:0"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ON_CPU and not tf.config.list_physical_devices("GPU"),
        reason="TensorFlow sees no GPU; TF_IRESNET_GPU_SUITE_ON_CPU=1 runs this on a CPU",
    ),
]


@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16"])
def model(request):
    """A flow trained by compiled steps."""
    with tf.device(DEVICE):
        model = small.flow(dtype=request.param, coeff=0.8, ema_momentum=0.9)
        model.compile(keras.optimizers.Adam(0.02), jit_compile=True)
        model.adapt(X)
        before = model.bits_per_dim(X, seed=0, log_det=Exact()).numpy().mean()
        model.fit(X, batch_size=16, epochs=8, verbose=0)
        after = model.bits_per_dim(X, seed=0, log_det=Exact()).numpy().mean()
    assert after < before - 0.01
    return model


@pytest.fixture(scope="module")
def twin(model):
    """The same weights on the CPU."""
    with tf.device("CPU:0"):
        twin = small.flow(coeff=0.8, ema_momentum=0.9)
        twin.set_weights(model.get_weights())
    return twin


def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def test_weights_live_on_the_device(model):
    assert {v.value.device.rsplit("/", 1)[-1] for v in model.trainable_variables} == {
        f"device:{DEVICE}"
    }


def test_densities_agree_with_the_cpu(model, twin):
    with tf.device("CPU:0"):
        truth = twin.log_prob(X, seed=3)
    with tf.device(DEVICE):
        np.testing.assert_allclose(model.log_prob(X, seed=3), truth, atol=1e-2)


def test_compiled_densities_average_to_the_exact_ones(model, twin):
    with tf.device("CPU:0"):
        truth = twin.log_prob(X[:4], log_det=Exact())
    series = PowerSeries(terms=8)  # its bias is below 0.01 nats at Lipschitz constants of 0.8^3
    with tf.device(DEVICE):
        density = compiled(lambda seed: model.log_prob(X[:4], seed, series))
        values = tf.stack([density(tf.constant(seed)) for seed in range(256)], axis=1)
    assert values.dtype == tf.float32
    # XLA may draw other numbers for a seed: compare means, of standard error 0.02 or so.
    np.testing.assert_allclose(tf.reduce_mean(values, axis=1), truth, atol=0.15)


def test_a_compiled_inverse_undoes_the_forward_pass(model):
    with tf.device(DEVICE):
        z = compiled(model.encode)(X)
        result = compiled(lambda z: model.decode(z, return_result=True))(z)
    assert result.converged.numpy().all()
    np.testing.assert_allclose(result.x, X, atol=1e-3)


def test_evaluation_is_compiled_too(model):
    with tf.device(DEVICE):
        logs = model.evaluate(X, batch_size=16, verbose=0, return_dict=True)
    assert np.isfinite(logs["bits_per_dim"])


def test_an_export_runs(model, tmp_path):
    with tf.device(DEVICE):
        export_saved_model(model, tmp_path / "1")
        signatures = tf.saved_model.load(tmp_path / "1").signatures
        out = signatures["log_prob"](x=tf.constant(X), seed=tf.constant(3))
        np.testing.assert_allclose(out["log_prob"], model.log_prob(X, seed=3), atol=1e-2)
        z = signatures["encode"](x=tf.constant(X))["z"]
        np.testing.assert_allclose(signatures["decode"](z=z)["x"], X, atol=1e-3)


def test_a_compiled_classifier_trains():
    with tf.device(DEVICE):
        model = small.classifier(ema_momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=True)
        labels = np.arange(32) % 3
        history = model.fit(X, labels, batch_size=16, epochs=8, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]
        np.testing.assert_allclose(model.decode(model.encode(X)), X, atol=1e-3)
