"""Bijectors and what TFP wraps around them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library.registry import make
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import Exact

X = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")


def exact(name="dense", dtype="float32"):
    return KerasBijector(make(name, dtype), log_det=Exact(), name="block")


def distribution(bijector, size=5):
    base = tfd.MultivariateNormalDiag(np.zeros(size, bijector.dtype.as_numpy_dtype))
    return tfd.TransformedDistribution(base, tfb.Invert(bijector))


def divergent(dtype="float32"):
    """A block whose inverse no solver finds: only a remembered preimage can stand for it."""
    layer = InvertibleResidual(
        hidden=4, kernel_sizes=(1,), coeff=None, input_activation=False, dtype=dtype
    )
    bijector = KerasBijector(layer, event_shape=[2], log_det=Exact())
    layer.branch.parts[0].kernel.assign(3 * np.eye(2))
    return bijector


def change(bijector, factor=0.3):
    for variable in bijector.layer.trainable_variables:
        variable.assign(factor * variable)
    bijector.layer.converge_spectral_state()


WRAPPERS = {
    "alone": lambda b: b,
    "invert": tfb.Invert,
    "chain": lambda b: tfb.Chain([tfb.Shift(np.ones(5, "float32")), b]),
    "invert of a chain": lambda b: tfb.Invert(tfb.Chain([b, tfb.Scale(np.float32(2.0))])),
    "distribution": distribution,
    "distribution of a chain": lambda b: tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros(5)), tfb.Chain([tfb.Shift(tf.ones(5)), tfb.Invert(b)])
    ),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
