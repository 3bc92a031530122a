"""What is known of the layers that a certificate takes apart: ours and some of Keras'."""

from __future__ import annotations

import math

import keras

from tf_iresnet.layers.activations import (
    CLipSwish,
    LipSwish,
    MaxMin,
    SmoothActivation,
    activation_bound,
)
from tf_iresnet.layers.branch import Branch, SpectralBranch
from tf_iresnet.layers.densenet import ConcatenatedLayer, DenseNetBranch
from tf_iresnet.layers.lipschitz import Part, check_built, parts_of, rule_for
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.spectral_conv import SpectralConv1D, SpectralConv2D, SpectralConv3D
from tf_iresnet.layers.spectral_dense import SpectralDense
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.layers.vouching import describe
from tf_iresnet.norms.dense import round_up


def _part(layer: keras.layers.Layer, bound: float) -> list[Part]:
    return [Part(layer.name, type(layer).__name__, bound)]


# --- ours ---


@rule_for(SpectralDense, SpectralConv1D, SpectralConv2D, SpectralConv3D)
def _spectral(layer: SpectralLayer) -> list[Part]:
    check_built(layer)
    own = Part(layer.name, type(layer).__name__, layer.norm_bound(), layer.coeff)
    if layer.activation is keras.activations.linear:
        return [own]
    name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    return [own, Part(layer.name, name, activation_bound(layer.activation))]


@rule_for(LipSwish, CLipSwish, MaxMin, SmoothActivation)
def _ours(layer: keras.layers.Layer) -> list[Part]:
    return _part(layer, layer.lipschitz_bound())


@rule_for(ConcatenatedLayer)
def _concatenated(layer: ConcatenatedLayer) -> list[Part]:
    check_built(layer)
    return _part(layer, layer.lipschitz_bound())


@rule_for(SpectralBranch, DenseNetBranch)
def _branch(layer: Branch) -> list[Part]:
    check_built(layer)
    return [part for inner in layer.parts for part in parts_of(inner)]


@rule_for(InvertibleResidual)
def _residual(layer: InvertibleResidual) -> list[Part]:
    """Inside a branch, x + g(x) itself: Lip <= 1 + Lip(g)."""
    return _part(layer, round_up(1.0 + layer.lipschitz_bound(), 1))


@rule_for(Squeeze)
def _squeeze(layer: Squeeze) -> list[Part]:
    return _part(layer, 1.0)


# --- chains ---


@rule_for(InvertibleSequential, keras.Sequential)
def _chain(layer: keras.layers.Layer) -> list[Part]:
    return [part for inner in layer.layers for part in parts_of(inner)]


@rule_for(keras.layers.TimeDistributed)
def _each(layer: keras.layers.TimeDistributed) -> list[Part]:
    return parts_of(layer.layer)


# --- Keras' ---


@rule_for(
    keras.layers.InputLayer,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
)
def _isometry(layer: keras.layers.Layer) -> list[Part]:
    """What these do in inference moves entries, or nothing."""
    return _part(layer, 1.0)


@rule_for(keras.layers.Activation)
def _activation(layer: keras.layers.Activation) -> list[Part]:
    return _part(layer, activation_bound(layer.activation))


@rule_for(keras.layers.ReLU)
def _relu(layer: keras.layers.ReLU) -> list[Part]:
    # A threshold above 0 is a jump.
    if layer.threshold != 0 or not (layer.max_value is None or layer.max_value >= 0):
        raise ValueError(
            f"{describe(layer)} has no known Lipschitz constant with threshold={layer.threshold!r} "
            f"and max_value={layer.max_value!r}; use threshold=0 and a max_value of at least 0."
        )
    return _part(layer, _slope(layer, "negative_slope"))


@rule_for(keras.layers.LeakyReLU)
def _leaky_relu(layer: keras.layers.LeakyReLU) -> list[Part]:
    return _part(layer, _slope(layer, "negative_slope"))


@rule_for(keras.layers.ELU)
def _elu(layer: keras.layers.ELU) -> list[Part]:
    return _part(layer, _slope(layer, "alpha"))


def _slope(layer: keras.layers.Layer, argument: str) -> float:
    """The largest slope of what is x above 0 and has at most the slope |argument| below."""
    value = float(getattr(layer, argument))
    if not math.isfinite(value):
        raise ValueError(
            f"{describe(layer)} has no known Lipschitz constant with {argument}={value!r}; use a "
            "finite one."
        )
    return max(1.0, abs(value))
