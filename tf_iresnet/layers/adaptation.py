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
    """Whether the evaluation that runs is inside of a `learning` that found a tape at work."""
    return _learning.get()


@contextlib.contextmanager
def learning(layer: InvertibleLayer) -> Iterator[None]:
    """Marks what is evaluated inside as training, if a gradient tape records the layer's weights.

    Densities are asked for without a word on what for, by TensorFlow Probability's loops and by a
    loss that is a log-likelihood. A tape over the weights is the sign of training: one over x
    alone, as in Markov chain Monte Carlo, is none.

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
    """Makes a layer that was made frozen so in all its parts, as one that is frozen later is.

    Args:
      layer: a Keras layer whose parts are there.
    """
    if not layer.trainable:
        # Each by itself: what is False already, Keras does not set again.
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
    """Sets what comes from data, layer by layer, each from what the layers before make of all rows.

    If anything fails, all weights are as they were.

    Args:
      layer: a layer that is built.
      parts: rows in groups, [rows, ...] each.
      contexts: those that belong to the rows; None for unconditional layers.
      again: whether to set what was set before, too. Frozen layers are left alone in any case.

    Returns:
      The layers that were set.

    Raises:
      ValueError: if all layers are frozen that take weights from data and ``again`` is said; if
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
