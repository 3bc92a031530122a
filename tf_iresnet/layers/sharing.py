"""Configurations of layers in a list, in which one layer may stand several times."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tf_iresnet.keras_private import layers_inside
from tf_iresnet.typing import Config


def serialize(layers: Sequence[keras.layers.Layer]) -> list[Config | int]:
    """Returns the layers' configurations; for a layer that stands there before, its first place.

    Raises:
      ValueError: if two of the layers share a layer inside. A configuration can't say so: the
        layers made of it would have two.

    Example:
    >>> layer = keras.layers.ReLU()
    >>> serialize([layer, layer])[1]
    0
    """
    first: dict[int, int] = {}
    configs: list[Config | int] = []
    owners: dict[int, keras.layers.Layer] = {}
    for layer in layers:
        for part in layers_inside(layer):
            owner = owners.setdefault(id(part), layer)
            if owner is not layer:
                raise ValueError(
                    f"{part.name} stands in both {owner.name} and {layer.name}, which a "
                    "configuration can't say, so that the model is neither saved nor cloned: give "
                    "each its own, or keep the weights alone, by save_weights."
                )
    for place, layer in enumerate(layers):
        known = first.setdefault(id(layer), place)
        new = known == place
        configs.append(keras.saving.serialize_keras_object(layer) if new else known)
    return configs


def deserialize(configs: Sequence[Config | int]) -> list[keras.layers.Layer]:
    """Returns the layers of `serialize`'s result; equal places are one layer.

    Example:
    >>> first, again = deserialize(serialize([keras.layers.ReLU()] * 2))
    >>> first is again
    True
    """
    layers: list[keras.layers.Layer] = []
    for config in configs:
        if isinstance(config, int):
            layers.append(layers[config])
        else:
            layers.append(keras.saving.deserialize_keras_object(config))
    return layers
