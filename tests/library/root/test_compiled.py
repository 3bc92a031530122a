"""Under ``jit_compile=True`` on this processor: the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.registry import inputs, make
from tf_iresnet.fixed_point import Anderson
from tf_iresnet.log_det import Exact
from tf_iresnet.tensorflow_private import by_xla


def both(function, *arguments):
    """What a function returns compiled, and in eager code."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled(*arguments), function(*arguments)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.soak)])
def test_exact_log_determinants_and_their_gradients(dtype):
    block = make("dense maxmin", dtype)
    x = tf.constant(inputs("dense maxmin", 3, dtype))

    def value(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, log_det = block.forward_and_log_det(x, log_det=Exact())
        return log_det, *tape.gradient(log_det, [x, block.branch.parts[-1].kernel._value])

    for compiled, eager in zip(*both(value, x), strict=True):
        np.testing.assert_allclose(compiled, eager, atol=1e-5 if dtype == "float32" else 1e-12)


def test_an_inverse_its_bound_and_its_gradient():
    block = make("conv 1-D")
    block.solver = Anderson()
    y = block(inputs("conv 1-D", 3))

    def value(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            result = block.inverse(y, return_result=True)
            total = tf.reduce_sum(result.x**2)
        return result.x, result.error_bound, tape.gradient(total, y)

    compiled, eager = both(value, y)
    np.testing.assert_allclose(compiled[0], eager[0], atol=1e-6)
    distance = np.linalg.norm((compiled[0] - eager[0]).numpy().reshape(3, -1), axis=1)
    assert (distance <= compiled[1].numpy() + eager[1].numpy()).all()
    assert (compiled[1].numpy() < 1e-5).all()
    np.testing.assert_allclose(compiled[2], eager[2], rtol=1e-4)


@pytest.mark.soak
def test_a_flow_trains_and_samples():
    histories = []
    for compiled in (True, False):
        keras.utils.set_random_seed(0)
        model = small.flow(coeff=0.8, eval_log_det=Exact(), log_det=Exact())
        model.adapt(small.pixels(16))
        model.compile(keras.optimizers.SGD(0.01), jit_compile=compiled)
        history = model.fit(small.pixels(16), batch_size=16, epochs=3, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-4)
    value, truth = both(lambda x: model.log_prob(x, 0), tf.constant(small.pixels(4)))
    np.testing.assert_allclose(value, truth, atol=1e-3)
    z = model.encode(small.pixels(4))
    np.testing.assert_allclose(*both(model.decode, z), atol=1e-3)
    sample = tf.function(lambda: model.sample(3, 0), jit_compile=True, autograph=False)
    assert np.isfinite(sample()).all()


def test_what_is_traced_knows_who_compiles_it():
    def asked():
        return tf.constant(by_xla())

    assert not asked()
    assert not tf.function(asked)()
    assert tf.function(asked, jit_compile=True)()
    assert tf.function(lambda: tf.function(asked)(), jit_compile=True)()
