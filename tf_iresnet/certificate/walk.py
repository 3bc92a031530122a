"""The layers of a model, as a certificate goes through them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import keras

from tf_iresnet.layers.conditioned import Conditioned
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.vouching import behaviour_of, check_not_replaced

_COMPOSITIONS = (Conditioned, InvertibleSequential, MultiScale, keras.Sequential)


@functools.singledispatch
def find_subject(model: object) -> tuple[keras.layers.Layer, list[keras.Variable]]:
    """Returns the layer that a certificate of a model is about, and the model's other weights.

    The weights of its prior and head are among them, moving averages are not. Models and bijectors
    register their answers where they are defined.

    Raises:
      ValueError: if it is no model, bijector or layer.
    """
    raise ValueError(
        f"model must be a model, bijector or layer of tf_iresnet, got {type(model).__name__}."
    )


@find_subject.register
def _layer(model: keras.layers.Layer) -> tuple[keras.layers.Layer, list[keras.Variable]]:
    return model, []


def known_sublayers(layer: keras.layers.Layer) -> Sequence[InvertibleLayer]:
    """Returns the invertible layers inside a composition of a known class; of others, none.

    Raises:
      ValueError: if some layers of a `keras.Sequential` are invertible and others are not, or a
        method of the composition was replaced.
    """
    if behaviour_of(type(layer)) not in _COMPOSITIONS:
        return ()
    check_not_replaced(layer)
    return _sublayers(layer)


def _sublayers(layer: keras.layers.Layer) -> Sequence[InvertibleLayer]:
    if isinstance(layer, InvertibleLayer):
        return layer.sublayers()
    inner = layer.layers if isinstance(layer, keras.Sequential) else []
    known = [part for part in inner if isinstance(part, InvertibleLayer)]
    if known and len(known) < len(inner):
        other = next(part for part in inner if part not in known)
        raise ValueError(
            f"{type(other).__name__} {other.name!r} in {layer.name!r} is no invertible layer of "
            "tf_iresnet; certify the invertible ones alone."
        )
    return known


def known_leaves(
    layer: keras.layers.Layer, path: str = ""
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields the layers that are no compositions of a known class, in order, with their paths.

    Raises:
      ValueError: if a layer is not built, or as `known_sublayers` does.
    """
    if not layer.built:
        raise ValueError(
            f"{layer.name} has no weights yet: call it on data, or build(input_shape) it."
        )
    inner = known_sublayers(layer)
    for part in inner:
        yield from known_leaves(part, f"{path}/{part.name}" if path else part.name)
    if not inner:
        yield path or layer.name, layer


def residual_blocks(
    layer: keras.layers.Layer, path: str = ""
) -> Iterator[tuple[str, InvertibleResidual]]:
    """Yields the residual blocks of a layer with their paths, as a certificate names them.

    Blocks inside compositions of other classes are among them.

    Example:
    >>> flow = InvertibleSequential([InvertibleResidual(name="block")])
    >>> [path for path, _ in residual_blocks(flow)]
    ['block']
    """
    if isinstance(layer, InvertibleResidual):
        yield path or layer.name, layer
    for part in _sublayers(layer):
        yield from residual_blocks(part, f"{path}/{part.name}" if path else part.name)
