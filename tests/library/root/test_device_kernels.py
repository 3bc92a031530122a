"""Every operation on numbers has a kernel for GPUs in its dtype, by TensorFlow's registry.

What lacks a kernel runs on the host, and its operands travel there and back.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tests.library import small_models as small
from tests.library.gpu_kernels import missing, spec
from tf_iresnet import functions
from tf_iresnet.layers import DenseNetBranch, InvertibleResidual, InvertibleSequential, Whitening
from tf_iresnet.layers.activations import ACTIVATIONS
from tf_iresnet.log_det import Exact, PowerSeries


def test_the_registry_knows_gpus_and_what_they_lack():
    """Or all tests here pass for nothing."""
    assert missing(lambda x: [tf.math.softplus(x) for _ in range(30)], spec("bfloat16")) == {
        ("Softplus", types_pb2.DT_BFLOAT16)
    }
    assert not missing(lambda x: [functions.softplus(x) for _ in range(30)], spec("bfloat16"))
    assert not missing(lambda x: [tf.math.softplus(x) for _ in range(30)], spec("float16"))


@pytest.mark.parametrize(
    "dtype",
    [
        "mixed_bfloat16",  # whose state and inverse are those of float32
        *(
            pytest.param(dtype, marks=pytest.mark.soak)
            for dtype in ("float32", "float64", "mixed_float16")
        ),
    ],
)
def test_layers(dtype):
    """Training with every activation, log-determinants, and the inverse with its gradient."""
    # What follows the first map is the same for all: one block has it.
    layers = [
        InvertibleResidual(
            activation=activation,
            log_det=PowerSeries(2),
            kernel_sizes=(1,) if index else (1, 1),
            hidden=4,
            dtype=dtype,
        )
        for index, activation in enumerate(ACTIVATIONS)
    ]
    layers.append(InvertibleResidual(DenseNetBranch(4, 1, dtype=dtype), dtype=dtype))
    flow = InvertibleSequential([Whitening(dtype=dtype), *layers], dtype=dtype)
    flow.build((None, 2, 2, 2))
    inverse = InvertibleSequential(layers[:1], dtype=dtype)
    inverse.build((None, 2, 2, 2))

    def step(x):
        with tf.GradientTape() as tape:
            y, log_det = flow.forward_and_log_det(x, seed=0, training=True)
            loss = tf.reduce_sum(y**2) - tf.reduce_sum(log_det)
        gradients = tape.gradient(loss, flow.trainable_variables)
        _, exact = inverse.forward_and_log_det(x, log_det=Exact())
        with tf.GradientTape() as tape:
            tape.watch(y)
            result = inverse.inverse(y, return_result=True)
            value = tf.reduce_sum(result.x)
        return gradients, exact, result, tape.gradient(value, y)

    assert not missing(step, spec(flow.variable_dtype, 2, 2, 2))


def steps(kind, dtype):
    model = getattr(small, kind)(dtype=dtype)
    if kind == "classifier":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(), loss)
    else:
        model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["flow", "classifier", "hybrid"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_models(kind, dtype):
    model = steps(kind, dtype)
    x = spec(model.variable_dtype, *model.event_shape)
    data = x if kind == "flow" else (x, spec("int32"))
    assert not missing(lambda data: model.train_step(data), data)
    if kind != "classifier":
        dims = int(np.prod(model.event_shape))
        assert not missing(lambda x: model.log_prob(x, seed=0), x)
        assert not missing(lambda z: model.decode(z, True), spec(model.variable_dtype, dims))
        assert not missing(lambda n: model.sample(n, seed=0), tf.TensorSpec([], tf.int32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_softplus_and_its_slopes(dtype):
    x = tf.constant([-100.0, -20.0, -2.0, -0.0, 0.0, 0.5, 3.0, 20.0, 100.0], dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = functions.softplus(x)
        slope = tape.gradient(y, x)
    curvature = outer.gradient(slope, x)
    wide = x.numpy().astype(float)
    sigmoid = 1 / (1 + np.exp(-wide))
    tolerance = {"rtol": 4 * np.finfo(np.float32).eps * (2**16 if dtype == "bfloat16" else 1)}
    for value, truth in (
        (y, np.logaddexp(0, wide)),
        (slope, sigmoid),
        (curvature, sigmoid * (1 - sigmoid)),
    ):
        np.testing.assert_allclose(value.numpy().astype(float), truth, atol=1e-8, **tolerance)
