"""Products of float32 on devices that round their operands (TF32): detection and full precision.

Graphics processors since 2020 multiply float32 tensors with 10 bits of each operand's fraction
by default. That is enough for training and for log-determinants, but an inverse solved with such
products stops three digits short of its tolerance. A product of full precision is the sum of
three products whose operands this rounding leaves unchanged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import tensorflow as tf

from tf_iresnet.functions.linear_maps import LinearMap

T = TypeVar("T")

_SIZE = 64  # large enough to be worth a device's matrix units
_SPATIAL, _CHANNELS = 8, 16
_NOTICED = 2.0**-17  # TF32 is off by up to 2^-11, float32 by 2^-24
_SPLITTER = 2.0**13 + 1.0  # leaves 11 of float32's 24 bits


def split(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns x as the sum of a part of 11 significant bits and the rest, of 12.

    Example:
    >>> high, low = split(tf.constant([1.0 + 2.0**-20]))
    >>> high.numpy().tolist(), (low * 2.0**20).numpy().tolist()
    ([1.0], [1.0])

    Source: Dekker 1971, Veltkamp's splitting.
    """
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    return high, x - high


@dataclasses.dataclass(frozen=True)
class Unrounded:
    """A linear map whose float32 products keep full precision where a device rounds them.

    With x = h + l and W = H + L it is H h + (H l + L h). The missing term L l lies below the
    rounding of float32.
    """

    linear_map: LinearMap

    def apply(self, kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns the map's value."""
        return _multiply_in_parts(self.linear_map.apply, kernel, x)

    def adjoint(self, kernel: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the adjoint's value."""
        return _multiply_in_parts(self.linear_map.adjoint, kernel, y)


def _multiply_in_parts(
    product: Callable[..., tf.Tensor], kernel: tf.Tensor, x: tf.Tensor
) -> tf.Tensor:
    if x.dtype != tf.float32:
        return product(kernel, x)
    (kernel_high, kernel_low), (high, low) = split(kernel), split(x)
    return product(kernel_high, high) + (product(kernel_high, low) + product(kernel_low, high))


def are_rounded(x: tf.Tensor) -> tf.Tensor:
    """Says whether the device at hand rounds the operands of float32 products, a bool scalar.

    It multiplies by the identity and compares, each time the graph runs: a SavedModel may run on
    another machine than the one that traced it, and TensorFlow's switch for TF32 may be turned.

    Args:
      x: any float32 tensor of the computation; its values do not matter.
    """
    # A 1 that TensorFlow's graph optimizer cannot compute beforehand, on the CPU.
    one = 1.0 + tf.cast(tf.reduce_any(x > math.inf), tf.float32)
    matrix = one * tf.constant(_operand(_SIZE, _SIZE))
    product = tf.linalg.matmul(matrix, one * tf.eye(_SIZE))
    image = one * tf.constant(_operand(1, _SPATIAL, _SPATIAL, _CHANNELS))
    taps = np.zeros((3, 3, _CHANNELS, _CHANNELS), np.float32)
    taps[1, 1] = np.eye(_CHANNELS)
    convolved = tf.raw_ops.Conv2D(
        input=image, filter=one * tf.constant(taps), strides=[1, 1, 1, 1], padding="SAME"
    )
    pairs = ((product, matrix), (convolved, image))
    return tf.reduce_any([tf.reduce_max(tf.abs(a - b)) > _NOTICED for a, b in pairs])


def _operand(*shape: int) -> np.ndarray:
    """Numbers on [1, 2) that use all of float32's bits."""
    return (1.0 + np.random.default_rng(0).random(shape)).astype(np.float32)


def where_rounded(rounded: tf.Tensor | None, compute: Callable[[bool], T]) -> T:
    """Returns compute(True) where products are rounded, else compute(False).

    Args:
      rounded: the result of `are_rounded`; None if rounding does not matter: compute(False).
      compute: takes a bool and returns tensors, of the same shapes for both.
    """
    if rounded is None or tf.executing_eagerly():
        return compute(rounded is not None and bool(rounded))
    return tf.cond(rounded, lambda: compute(True), lambda: compute(False))
