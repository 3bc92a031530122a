"""When a layer takes its weights from data: on command, or from the first batch of training."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from tf_iresnet.keras_private import layers_inside
from tf_iresnet.tensorflow_private import any_tape, recording_tapes

if TYPE_CHECKING:
    from tf_iresnet.layers.data_initialized import DataInitialized
    from tf_iresnet.layers.invertible import InvertibleLayer

_learning: contextvars.ContextVar[bool] = contextvars.ContextVar("learning", default=False)


def is_learning() -> bool:
    """Says whether the running evaluation is inside a `learning` that found a gradient tape."""
    return _learning.get()


@contextlib.contextmanager
def learning(layer: InvertibleLayer) -> Iterator[None]:
    """Marks what is evaluated inside as training, if a gradient tape records the layer's weights.

    TensorFlow Probability's loops, and losses that are log-likelihoods, ask for a density without
    saying that they train. A tape over the weights is the sign of training. A tape over x alone, as
    in Markov chain Monte Carlo, is none.

    Args:
      layer: the layer that is going to be evaluated.
    """
    if not any_tape() or is_learning() or not _is_trained(layer):
        yield
        return
    token = _learning.set(True)
    try:
        yield
    finally:
        _learning.reset(token)


def _is_trained(layer: InvertibleLayer) -> bool:
    if not any(part.is_due_when_traced() for part in layers_from_data(layer)):
        return False
    weights = layer.trainable_variables
    return bool(weights) and recording_tapes(*(tf.convert_to_tensor(w) for w in weights)) > 0


def freeze_parts(layer: keras.layers.Layer) -> None:
    """Freezes all parts of a layer that was made frozen, as setting ``trainable`` later does.

    Args:
      layer: a Keras layer, all parts of which exist.
    """
    if not layer.trainable:
        # Each part by itself: Keras does not hand down a value that is already set.
        for part in layers_inside(layer)[1:]:
            part.trainable = False


def layers_from_data(layer: InvertibleLayer) -> list[DataInitialized]:
    """Returns the layers in a layer, itself among them, that take weights from data."""
    return [part for part in layers_inside(layer) if getattr(part, "takes_from_data", False)]


def adapt(
    layer: InvertibleLayer,
    parts: Sequence[tf.Tensor],
    contexts: Sequence[tf.Tensor | None],
    again: bool,
) -> list[DataInitialized]:
    """Sets the weights that come from data, layer by layer.

    Each layer sees all rows as the layers before it map them. If anything fails, all weights keep
    their values.

    Args:
      layer: a layer that is built.
      parts: rows in groups, [rows, ...] each.
      contexts: those that belong to the rows; None for unconditional layers.
      again: whether to set weights that are set already. Frozen layers are always left alone.

    Returns:
      The layers that were set.

    Raises:
      ValueError: if ``again`` is True and all layers that take weights from data are frozen; if
        the statistics are not finite.
    """
    candidates = layers_from_data(layer)
    free = [part for part in candidates if part.trainable]
    if again and candidates and not free:
        raise ValueError(
            f"{layer.name} is frozen, and so is all of it that comes from data: set trainable=True "
            "before adapt, or leave it out."
        )
    due = [part for part in free if again or part.needs_data]
    variables = [variable for part in due for variable in part.weights_from_data()]
    kept = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        if due:
            layer._adapt(list(parts), list(contexts), list(due))
    except BaseException:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        raise
    return due
