"""What Keras' loops hand to a step, taken apart: x, what stands beside it, and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
import tensorflow as tf

from tf_iresnet.typing import ArrayLike, BatchLike, Shape


class Batch(NamedTuple):
    """A batch as a step reads it: y is the context or the labels, weights are [batch] or None."""

    x: tf.Tensor
    y: tf.Tensor | None = None
    weights: tf.Tensor | None = None


class Reader(NamedTuple):
    """Takes batches apart, and says in one line what cannot be read.

    Args:
      owner: whose batches they are, such as "the flow f", in messages.
      beside: what the owner reads beside x: "context", "labels", or None for nothing.
    """

    owner: str
    beside: str | None = None

    def read(self, data: BatchLike, complete: bool = True) -> Batch:
        """Takes a batch apart.

        Args:
          data: x, or a tuple or list of x, y and weights, of which the last may be missing; in
            any form that has the structure of a batch, such as specifications.
          complete: whether what is read beside x has to be there.

        Returns:
          Its parts. Where nothing is read beside x, y is None, or else the zeros that may stand
          for no y in (x, y, weights): the triples of a data set cannot hold None.

        Raises:
          ValueError: if the batch has another structure; the message says how to change it.

        Example:
        >>> Reader("the flow f").read((1.0, None, 0.5))
        Batch(x=1.0, y=None, weights=0.5)
        """
        parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        if isinstance(data, Batch):
            return data
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                f"{self.owner} reads {self._wanted()}, got a tuple of {len(parts)} parts; a "
                "batch is x, (x, y) or (x, y, sample_weight)."
            )
        x, y, weights = (*parts, None, None)[:3]
        for part in (x, y):
            self._check_single(part)
        if self.beside is None:
            if y is None or stands_for_none(y):
                return Batch(x, None, weights)
            if weights is None:
                raise ValueError(
                    f"{self.owner} reads x alone, got a y beside it; leave y out, as in fit(x), "
                    "or data.map(lambda x, y: x) for a data set."
                )
        elif y is None and complete:
            raise ValueError(f"{self.owner} {self._missing()}")
        return Batch(x, y, weights)

    def check_placeholder(self, y: ArrayLike) -> None:
        """Refuses a y in (x, y, weights) that only fills its place and is not zero.

        Raises:
          ValueError: if nothing is read beside x and y holds anything but zeros.
        """
        if self.beside is None and y is not None and np.asarray(y).any():
            raise ValueError(f"{self.owner} {PLACEHOLDER}")

    def _check_single(self, part: object) -> None:
        if isinstance(part, Mapping):
            keys = [repr(key) for key in part]
            picked = f"d[{keys[0] if keys else ''}]"
            if self.beside is not None:
                picked = f"({picked}, d[{keys[-1] if keys else ''}])"
            raise ValueError(
                f"{self.owner} reads {self._wanted()}, got a dictionary with the keys "
                f"{', '.join(keys)}; pick the parts, as in data.map(lambda d: {picked})."
            )
        if isinstance(part, (tuple, list)):
            raise ValueError(
                f"{self.owner} reads {self._wanted()}, got a {type(part).__name__} of "
                f"{len(part)} in the place of one array; stack it into one, as numpy.asarray does."
            )

    def _wanted(self) -> str:
        return "x alone" if self.beside is None else f"x and {self.beside}"

    def _missing(self) -> str:
        if self.beside == "context":
            return (
                "is conditional: give context beside x, as in fit(x, context), or a data set of "
                "pairs (x, context)."
            )
        return "is trained on pairs of x and labels y, as in fit(x, y), got no y."


PLACEHOLDER = (
    "reads x and weights: in (x, y, sample_weight) its y must be zeros, which stand for no y, as "
    "in data.map(lambda x, y, w: (x, 0 * w, w))."
)


def check_shape(name: str, shape: Shape, event: Sequence[int | None]) -> None:
    """Refuses a batch of another shape than [batch, *event].

    Raises:
      ValueError: if it has another shape.

    Example:
    >>> check_shape("x", (None, 4, 4, 1), (4, 4, 1))
    """
    shape = tf.TensorShape(shape)
    if shape.rank != len(event) + 1 or tuple(shape[1:]) != tuple(event):
        sizes = ", ".join(map(str, event))
        raise ValueError(f"{name} must have the shape [batch, {sizes}], got {shape}.")


def no_y(count: int) -> np.ndarray:
    """Returns an empty y for data without one: Keras' loops drop weights that follow no y.

    Example:
    >>> stands_for_none(no_y(3))
    True
    """
    return np.zeros((count, 0), "float32")


def stands_for_none(y: ArrayLike) -> bool:
    """Says whether y has no entries, as `no_y` makes it."""
    shape = getattr(y, "shape", None)
    return shape is not None and tf.TensorShape(shape).rank == 2 and shape[-1] == 0


def is_array(x: object) -> TypeGuard[tf.Tensor]:
    """Says whether x holds all of the data at once, and is no source of batches.

    Example:
    >>> is_array(np.zeros(3)), is_array(iter([]))
    (True, False)
    """
    return isinstance(x, (Mapping, list, tuple)) or hasattr(x, "shape")
