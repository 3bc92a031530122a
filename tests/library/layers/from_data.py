"""Data whose columns lie far apart, and layers and models that take weights from it."""

import keras
import numpy as np
import tensorflow as tf

from tests.library import small_models as small
from tf_iresnet.layers import ActNorm, InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import Exact, PowerSeries

NORMAL = np.random.default_rng(0).standard_normal((64, 3))
X = (NORMAL * [0.02, 1.0, 300.0] + [5.0, -300.0, 4000.0]).astype("float32")


def flow(**changes):
    """A flow whose estimators, which are not the claim here, are quick to trace."""
    estimators = {"log_det": PowerSeries(terms=1), "eval_log_det": Exact()}
    arguments = {"levels": None, "blocks": (1,), "hidden": 4, "coeff": 0.8, **estimators}
    return small.flow((3,), **{**arguments, **changes})


def stack():
    keras.utils.set_random_seed(0)
    block = InvertibleResidual(hidden=4, log_det=PowerSeries(terms=1))
    return InvertibleSequential([ActNorm(), block])


def actnorm(model):
    (layer,) = (part for part in model._flatten_layers() if isinstance(part, ActNorm))
    return layer


def assert_standardises(layer, x, flag=1.0):
    """The weights of ActNorm by NumPy's moments of x."""
    x = np.asarray(x, "float64").reshape(-1, x.shape[-1])
    np.testing.assert_allclose(layer.bias, -x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(layer.log_scale), 1 / x.std(0), rtol=1e-4)
    assert float(tf.convert_to_tensor(layer.initialized)) == flag


def assert_untouched(layer):
    for variable in layer.weights_from_data():
        start = np.eye(variable.shape[0]) if len(variable.shape) == 2 else np.zeros(variable.shape)
        np.testing.assert_array_equal(variable, start)
