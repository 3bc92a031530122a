"""What a file of a model holds: its functions by name, and the layers whose weights they use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

Signature = tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]


class Contents(NamedTuple):
    """What is written of a model: signatures by name, and the layers whose weights they use."""

    #: The first is what is served by default.
    signatures: dict[str, Signature]
    parts: list[keras.layers.Layer]


@functools.singledispatch
def contents_of(model: object) -> Contents:
    """Returns what is written of a model; `tf_iresnet.models.signatures` registers each kind.

    Raises:
      ValueError: if the model is of no kind that is exported.
    """
    raise ValueError(
        "model must be an IResNetFlow, IResNetClassifier or IResNetHybrid, got "
        f"{type(model).__name__}."
    )
