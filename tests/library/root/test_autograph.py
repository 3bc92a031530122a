"""What a `tf.function` calls is traced as it is written, but for what users write themselves."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.impl import api

from tests.library import registry
from tests.library import small_models as small
from tf_iresnet.certificate.variance import log_det_statistics
from tf_iresnet.layers import Squeeze
from tf_iresnet.log_det import PowerSeries


@pytest.fixture
def translated(monkeypatch):
    """Names of the functions that are translated, or found translated, while one is traced."""
    translate = api._convert_actual

    def names(function, *arguments):
        found = set()

        def note(entity, context):
            found.add(entity.__qualname__)
            return translate(entity, context)

        monkeypatch.setattr(api, "_convert_actual", note)
        tf.function(function).get_concrete_function(*arguments)
        return found

    return names


@pytest.mark.parametrize("name", [pytest.param("conv 2-D", marks=pytest.mark.soak), "multi-scale"])
@pytest.mark.parametrize(
    "method", ["forward", "inverse", "forward_and_log_det", "update_spectral_state"]
)
def test_layers(translated, name, method):
    layer = registry.make(name)
    x = tf.constant(registry.inputs(name))
    if method == "inverse":
        x = layer.forward(x)
    arguments = () if method.startswith("update") else (x,)
    assert translated(getattr(layer, method), *arguments) == set()


@pytest.mark.parametrize("method", ["log_prob", "encode", "decode", "train_step", "test_step"])
def test_models(translated, method):
    model = small.flow((2,), levels=None, blocks=(1,), hidden=4)
    model.compile("sgd")
    x = tf.constant(small.points(4, 2))
    model.adapt(x)
    assert translated(getattr(model, method), x) == set()


def test_statistics(translated):
    layer, x = registry.make("dense"), tf.constant(registry.inputs("dense"))
    assert translated(log_det_statistics, layer, x, 0, PowerSeries(2), 2) == set()


class Signed(Squeeze):
    """A user's layer, which branches on a value as Python does."""

    def forward(self, x, training=False):
        if tf.reduce_sum(x) > 0:
            return x
        return -x


def test_a_user_s_layer_is_translated(translated):
    layer = Signed()
    assert any("forward" in name for name in translated(layer.forward, tf.constant([-1.0])))
    for value in (-2.0, 2.0):
        found = tf.function(layer.forward)(tf.constant([value]))
        np.testing.assert_array_equal(found, [2.0])


def test_a_marked_method_is_itself():
    """Doctests are looked for in functions, not in what wraps them."""
    assert Squeeze.forward.__code__.co_filename.endswith("squeeze.py")
    assert not hasattr(Squeeze.forward, "__wrapped__")
