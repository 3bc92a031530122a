"""Numbers that are proven for a layer's present weights, and for no others."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.layers.upkeep import is_frozen

# Odd numbers without a pattern (the fractions of the golden ratio and of sqrt 3).
_FIRST = np.array(0x9E3779B97F4A7C15, np.uint64).astype(np.int64)
_SECOND = np.array(0xBB67AE8584CAA73B, np.uint64).astype(np.int64)

_asked: contextvars.ContextVar[dict[tuple[Proof, tf.Graph | None], tf.Tensor] | None] = (
    contextvars.ContextVar("_asked", default=None)
)


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Compares weights with those of a proof once, however often the proof is used inside.

    No weight may change inside.
    """
    token = _asked.set({})
    try:
        yield
    finally:
        _asked.reset(token)


def digest(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns an int64 scalar that differs for different values, but for one pair in 2^64.

    It is computed from the bits alone, so that eager code and graphs agree.
    """
    if not tensors:
        return tf.zeros([], tf.int64)
    # As one vector: a few operations for each tensor would make up most of an inverse's graph.
    bits = tf.cast(tf.concat([_bits(tensor) for tensor in tensors], 0), tf.int64)
    position = tf.range(1, tf.size(bits, tf.int64) + 1, dtype=tf.int64)
    mixed = (bits + position * _FIRST) * _SECOND
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, 29)) * _FIRST
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, 32))
    return tf.reduce_sum(mixed)


def _bits(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor's bits as a vector of int32."""
    if tensor.dtype.size != 4 or not tensor.dtype.is_floating:
        tensor = tf.cast(tensor, tf.float64)
    return tf.reshape(tf.bitcast(tensor, tf.int32), [-1])


class Proof:
    """Remembers a number that was proven for a layer's weights, until they change.

    A proof takes singular values and Fourier transforms. So it is made once for the present
    weights, before a graph's first operation runs. Graphs compare the weights that they meet with
    these, by a digest; for other weights nothing is proven there. Frozen weights are not compared.
    """

    def __init__(self) -> None:
        self._known: tuple[int, float] | None = None

    def of(self, layer: keras.layers.Layer, prove: Callable[[], float]) -> tf.Tensor:
        """Returns the number for the layer's present weights, infinity if there is none.

        Args:
          layer: a built Keras layer.
          prove: returns the number for its weights, or raises ValueError.

        Returns:
          A float64 scalar.
        """
        asked = _asked.get()
        if asked is None:
            return self._of(layer, prove)
        key = self, None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if key not in asked:
            asked[key] = self._of(layer, prove)
        return asked[key]

    def _of(self, layer: keras.layers.Layer, prove: Callable[[], float]) -> tf.Tensor:
        with tf.init_scope():
            if not tf.executing_eagerly():  # nothing can be computed before this graph runs
                return tf.constant(math.inf, tf.float64)
            then = int(digest(_values(layer)))
            if self._known is None or self._known[0] != then:
                self._known = then, _proven(prove)
            value = self._known[1]
        proven = tf.constant(value, tf.float64)
        if tf.executing_eagerly() or is_frozen() or not layer.variables:
            return proven
        same = tf.equal(digest(_values(layer)), tf.constant(then, tf.int64))
        return tf.where(same, proven, tf.constant(math.inf, tf.float64))


def _proven(prove: Callable[[], float]) -> float:
    try:
        value = float(prove())
    except ValueError:  # no bound is known
        return math.inf
    return value if value >= 0.0 else math.inf


def _values(layer: keras.layers.Layer) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(variable) for variable in layer.variables]
