"""Lipschitz constants of branches, composed of those of their parts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras

from tf_iresnet.bounds.dense import product_up, rounded_up
from tf_iresnet.layers.activations import activation_bound
from tf_iresnet.layers.spectral import SpectralLayer


class Part(NamedTuple):
    """A part of a branch, its proven Lipschitz constant, and the coeff it should stay below."""

    name: str
    kind: str
    bound: float
    coeff: float | None = None


# What these do in inference moves or drops entries. Exact types: a subclass may do anything.
_ISOMETRIES = (
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


def parts_of(layer: keras.layers.Layer) -> list[Part]:
    """Returns a branch's parts in the order of evaluation, each with its bound.

    Chains (`SpectralBranch`, `keras.Sequential`) and `TimeDistributed` are taken apart. A layer
    that offers ``lipschitz_bound()`` is taken at its word.

    Args:
      layer: a built layer.

    Raises:
      ValueError: if a part has no known Lipschitz constant; it is named.

    Example:
    >>> layer = keras.Sequential([keras.Input((2,)), keras.layers.ReLU(name="relu")])
    >>> parts_of(layer)
    [Part(name='relu', kind='ReLU', bound=1.0, coeff=None)]
    """
    kind = type(layer).__name__
    if isinstance(layer, SpectralLayer):
        own = Part(layer.name, kind, layer.norm_bound(), layer.coeff)
        if layer.activation is keras.activations.linear:
            return [own]
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        return [own, Part(layer.name, name, activation_bound(layer.activation))]
    if isinstance(layer, keras.Sequential):
        return [part for inner in layer.layers for part in parts_of(inner)]
    if type(layer) is keras.layers.TimeDistributed:
        return parts_of(layer.layer)
    inner_parts = getattr(layer, "parts", None)
    if isinstance(inner_parts, list) and inner_parts:
        return [part for inner in inner_parts for part in parts_of(inner)]
    if callable(getattr(layer, "lipschitz_bound", None)):
        return [Part(layer.name, kind, float(layer.lipschitz_bound()))]
    return [Part(layer.name, kind, _constant(layer))]


def _constant(layer: keras.layers.Layer) -> float:
    """The Lipschitz constant of one of Keras' own layers."""
    kind: Any = type(layer)
    if kind in _ISOMETRIES:
        return 1.0
    if kind is keras.layers.Activation:
        return activation_bound(layer.activation)
    if kind is keras.layers.ReLU and layer.threshold == 0:
        return max(1.0, float(layer.negative_slope))
    if kind is keras.layers.LeakyReLU:
        return max(1.0, float(layer.negative_slope))
    if kind is keras.layers.ELU:
        return max(1.0, float(layer.alpha))
    raise ValueError(
        f"{kind.__name__} {layer.name!r} has no known Lipschitz constant; use spectral layers and "
        "activations of tf_iresnet, or give it a method lipschitz_bound()."
    )


def bound_of(layer: keras.layers.Layer) -> float:
    """Returns a branch's proven Lipschitz constant, the product of its parts' bounds.

    Raises:
      ValueError: if a part has none; it is named.
    """
    return product_up(part.bound for part in parts_of(layer))


def inverse_bound(contraction: float) -> float:
    """Returns 1 / (1 - L), rounded up: a Lipschitz constant of the inverse of x + g(x).

    Args:
      contraction: a Lipschitz constant L of g.

    Example:
    >>> 2.0 <= inverse_bound(0.5) < 2.0 + 1e-9, inverse_bound(1.0)
    (True, inf)
    """
    return rounded_up(1.0 / (1.0 - contraction), 4) if contraction < 1.0 else math.inf
