"""Arithmetic on each example of a batch."""

from __future__ import annotations

import tensorflow as tf


def event_axes(x: tf.Tensor) -> list[int]:
    """Returns the axes of one example: all of x but the first.

    Example:
    >>> event_axes(tf.zeros([5, 3, 2]))
    [1, 2]
    """
    return list(range(1, x.shape.rank))


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns the inner product of each example, [batch], of two tensors [batch, ...]."""
    return tf.reduce_sum(a * b, axis=event_axes(a))


def expand_like(values: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns values [batch] with as many axes of size 1 as x has after the batch.

    Example:
    >>> expand_like(tf.zeros([5]), tf.zeros([5, 3, 2])).shape
    TensorShape([5, 1, 1])
    """
    return tf.reshape(values, [-1] + [1] * (x.shape.rank - 1))


def tile_like(values: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns values [batch, ...] for every row of x, which may hold the batch many times.

    Example:
    >>> tile_like(tf.constant([1, 2]), tf.zeros([4, 3])).numpy().tolist()
    [1, 2, 1, 2]
    """
    copies = tf.shape(x)[0] // tf.maximum(tf.shape(values)[0], 1)
    tiled = tf.tile(values, [copies] + [1] * (values.shape.rank - 1))
    return tf.ensure_shape(tiled, [x.shape[0], *values.shape[1:]])


def sum_tiles(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Adds up what belongs to the same example: the transpose of `tile_like`.

    Example:
    >>> sum_tiles(tf.constant([1, 2, 3, 4]), tf.constant([1, 2])).numpy().tolist()
    [4, 6]
    """
    copies = tf.shape(values)[0] // tf.maximum(tf.shape(like)[0], 1)
    stacked = tf.reshape(values, tf.concat([[copies], tf.shape(like)], axis=0))
    return tf.ensure_shape(tf.reduce_sum(stacked, axis=0), like.shape)
