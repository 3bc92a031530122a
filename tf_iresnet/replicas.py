"""Sums over the replicas of a distribution strategy, each of which sees a part of the batch.

Outside of a strategy there is one replica, and nothing is communicated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")


@contextlib.contextmanager
def own_variables() -> Iterator[None]:
    """Makes variables of which every replica has its own, assigned without communication.

    All replicas derive their values from the same weights. Outside of replicas the value of the
    first one is read.
    """

    def make(next_creator: Callable[..., tf.Variable], **options: object) -> tf.Variable:
        return next_creator(**{**options, "synchronization": tf.VariableSynchronization.ON_READ})

    with tf.variable_creator_scope(make):
        yield


def replica_context() -> tf.distribute.ReplicaContext | None:
    """Returns the context of this replica where there are others, else None."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def all_reduce_sum(values: T) -> T:
    """Adds up tensors over all replicas.

    Args:
      values: a tensor, or a list of tensors, of the same shapes on every replica.

    Returns:
      The sums, the same on every replica; differentiable.

    Example:
    >>> float(all_reduce_sum(tf.constant(2.0)))
    2.0
    """
    context = replica_context()
    if context is None:
        return values
    # Each on this replica's device, which constants and results of functions may lack.
    values = tf.nest.map_structure(tf.identity, values)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def count_and_first(batch: tf.Tensor) -> tf.Tensor:
    """Counts the examples of the global batch, and those on the replicas before this one.

    Replicas may hold different numbers of examples, and none.

    Args:
      batch: the number of examples on this replica, an integer scalar.

    Returns:
      Both numbers, int32 [2]: examples in all, and the global index of the first one here.

    Example:
    >>> count_and_first(tf.constant(7)).numpy().tolist()
    [7, 0]
    """
    batch = tf.cast(batch, tf.int32)
    context = replica_context()
    if context is None:
        return tf.stack([batch, 0])
    replicas = tf.range(context.num_replicas_in_sync)
    here = tf.cast(context.replica_id_in_sync_group, tf.int32)
    counts = all_reduce_sum(tf.where(replicas == here, batch, 0))
    return tf.stack([tf.reduce_sum(counts), tf.reduce_sum(tf.where(replicas < here, counts, 0))])


def channel_moments(*parts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance of each channel over all other axes and over all replicas.

    Args:
      *parts: the batch, or groups of its rows, each [rows, ..., channels], float32 or wider.

    Returns:
      Mean and (biased) variance, each [channels]; differentiable.

    Example:
    >>> mean, variance = channel_moments(tf.constant([[1.0], [3.0]]))
    >>> mean.numpy().tolist(), variance.numpy().tolist()
    ([2.0], [1.0])
    """
    count, mean = _count_and_mean(parts)
    # Two passes: the difference of large squares would cancel.
    squares = sum(tf.reduce_sum(tf.square(x - mean), list(range(x.shape.rank - 1))) for x in parts)
    return mean, all_reduce_sum(squares) / count


def channel_covariance(*parts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns mean and covariance of the channels over all other axes and over all replicas.

    Args:
      *parts: the batch, or groups of its rows, each [rows, ..., channels], float32 or wider.

    Returns:
      How many values each channel has, a scalar of the same dtype, the mean, [channels], and the
      (biased) covariance, [channels, channels].

    Example:
    >>> count, mean, covariance = channel_covariance(tf.constant([[1.0, 0.0], [3.0, 1.0]]))
    >>> float(count), covariance.numpy().tolist()
    (2.0, [[1.0, 0.5], [0.5, 0.25]])
    """
    count, mean = _count_and_mean(parts)
    centred = [tf.reshape(x - mean, [-1, x.shape[-1]]) for x in parts]
    squares = sum(tf.matmul(x, x, transpose_a=True) for x in centred)
    return count, mean, all_reduce_sum(squares) / count


def _count_and_mean(parts: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how many values each channel has on all replicas, and their mean."""
    count = sum(tf.cast(tf.size(x) // x.shape[-1], x.dtype) for x in parts)
    total = sum(tf.reduce_sum(x, list(range(x.shape.rank - 1))) for x in parts)
    count, total = all_reduce_sum([count, total])
    return count, total / count
