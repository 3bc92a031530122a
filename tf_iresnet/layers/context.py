"""Contexts: what a conditional layer is given beside x, and how it is checked."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.typing import Context, DTypeLike, Inputs


def check_context_size(size: object) -> int | None:
    """Returns the number of a context's features, or None for no context.

    Raises:
      ValueError: if it is neither None nor a positive integer.
    """
    if size is None:
        return None
    return check_integer("context_size", size, 1, ", or None for no context")


def check_context(owner: str, context: Context, size: int | None, x: tf.Tensor) -> tf.Tensor | None:
    """Returns a context as a tensor [batch, size] of the dtype of x, or None where none is due.

    Args:
      owner: what the context is for, in messages.
      context: as given.
      size: the number of its features; None if no context is taken.
      x: [batch, ...], with as many examples.

    Raises:
      ValueError: if it is missing, not wanted, or of another shape.
    """
    if size is None:
        if context is not None:
            raise ValueError(
                f"{owner} is unconditional but got a context; leave context out, or build it with "
                "context_size."
            )
        return None
    if context is None:
        raise ValueError(f"{owner} is conditional: give context, of shape [batch, {size}].")
    rows: tf.Tensor = tf.cast(_convert(context), x.dtype)
    if rows.shape.rank != 2 or rows.shape[1] != size:
        raise ValueError(f"context must have the shape [batch, {size}], got {rows.shape}.")
    if not rows.shape[:1].is_compatible_with(x.shape[:1]):
        raise ValueError(
            f"context must have one row for each of the {x.shape[0]} examples, got {rows.shape[0]}."
        )
    if None in (rows.shape[0], x.shape[0]):
        check = tf.debugging.assert_equal(
            tf.shape(rows)[0], tf.shape(x)[0], "context must have one row for each example."
        )
        with tf.control_dependencies([check]):  # before operations that fail with other words
            rows = tf.identity(rows)
    return rows


def check_context_vector(
    owner: str, context: Context, size: int | None, dtype: DTypeLike
) -> tf.Tensor | None:
    """Returns one context [size] as a tensor, or None where none is due.

    Raises:
      ValueError: if it is missing, not wanted, or of another shape.
    """
    row = None if context is None else tf.cast(_convert(context), dtype)[None]
    if row is not None and size is not None and row.shape != (1, size):
        raise ValueError(f"context must have the shape [{size}], got {row.shape[1:]}.")
    row = check_context(owner, row, size, tf.zeros([1], dtype))
    return None if row is None else row[0]


def _convert(context: Context) -> tf.Tensor:
    """Converts a context, and refuses one that does not hold real numbers."""
    converted: tf.Tensor | None = None
    try:
        converted = tf.convert_to_tensor(context)
        numeric = converted.dtype.is_floating or converted.dtype.is_integer
    except (ValueError, TypeError):
        numeric = False
    if not numeric:
        raise ValueError(
            "context must be an array of real numbers, got "
            f"{context if converted is None else converted!r}."
        )
    return converted


def context_keyword(layer: object, context: tf.Tensor | None) -> Inputs:
    """Returns the keyword argument ``context`` for a layer that takes one, else nothing."""
    return {} if getattr(layer, "context_size", None) is None else {"context": context}


def common_context_size(name: str, layers: Iterable[object]) -> int | None:
    """Returns the context size that layers agree on; None if none of them takes a context.

    Raises:
      ValueError: if they do not agree.
    """
    found = (getattr(layer, "context_size", None) for layer in layers)
    sizes = {size for size in found if size is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"the layers of {name} take contexts of different sizes {sorted(sizes)}; give all of "
            "them the same context_size."
        )
    return sizes.pop() if sizes else None
