"""Weights of examples: a loss is sum_i w_i l_i / sum_i w_i over the global batch."""

from __future__ import annotations

import numbers
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.typing import ArrayLike, DTypeLike


def as_row(weights: ArrayLike, dtype: DTypeLike) -> tf.Tensor:
    """Returns weights as a tensor [batch].

    Args:
      weights: numbers, [batch] or [batch, 1].
      dtype: of the result.

    Raises:
      ValueError: if they have another shape.

    Example:
    >>> as_row(np.ones((2, 1)), tf.float32).shape
    TensorShape([2])
    """
    weights = tf.convert_to_tensor(weights)
    if weights.shape.rank == 2 and weights.shape[1] == 1:
        weights = weights[:, 0]
    if weights.shape.rank != 1:
        raise ValueError(
            "sample_weight must hold one number for each example, of the shape [batch] or "
            f"[batch, 1], got {weights.shape}."
        )
    return tf.cast(weights, dtype)


def weighted_sum(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Adds up the values [batch] of examples, each times its weight where there are weights.

    Example:
    >>> float(weighted_sum(tf.constant([1.0, 2.0]), tf.constant([3.0, 0.5])))
    4.0
    """
    return tf.reduce_sum(values if weights is None else values * weights)


def global_weight(weights: tf.Tensor | None, count: tf.Tensor, dtype: DTypeLike) -> tf.Tensor:
    """Returns the sum of the weights over all replicas; without weights each example has one.

    Args:
      weights: of this replica's examples, [batch], or None.
      count: the number of examples on all replicas.
      dtype: of the result.

    Example:
    >>> float(global_weight(tf.constant([0.5, 0.25]), 2, tf.float32))
    0.75
    """
    if weights is None:
        return tf.cast(count, dtype)
    return replicas.all_reduce_sum(tf.cast(tf.reduce_sum(weights), dtype))


def are_weights(weights: tf.Tensor) -> tf.Tensor:
    """Says whether all numbers are weights: finite and at least zero.

    Example:
    >>> [bool(are_weights(tf.constant([0.0, last]))) for last in (1.0, -1.0, np.nan)]
    [True, False, False]
    """
    return tf.reduce_all((weights >= 0) & tf.math.is_finite(weights))


def check_sample_weight(weights: ArrayLike) -> None:
    """Refuses, before any work, what cannot weigh the examples of an array.

    Raises:
      ValueError: if a weight is negative or not finite, or all of them are zero.

    Example:
    >>> check_sample_weight(np.array([0.0, 2.0]))
    """
    row = np.asarray(as_row(weights, tf.float64))
    wrong = row[~((row >= 0) & np.isfinite(row))]
    if len(wrong):
        raise ValueError(
            f"sample_weight must hold finite numbers of at least 0, got {wrong[0]:g}; leave those "
            "examples out, or give them the weight 0."
        )
    if len(row) and not row.any():
        raise ValueError(
            "sample_weight is 0 for every example, so that there is nothing to average; give "
            "some of them a positive weight."
        )


def check_class_weight(weights: object, owner: str, has_classes: bool) -> None:
    """Refuses weights of classes where there are no classes, or that are no weights.

    Raises:
      ValueError: if there are no classes, or a weight is no finite number of at least 0.

    Example:
    >>> check_class_weight({0: 1.0, 1: 2.5}, "the classifier c", True)
    """
    if not has_classes:
        raise ValueError(
            f"class_weight needs labels, which {owner} does not read; give sample_weight, one "
            "weight for each example."
        )
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"class_weight must be a dictionary of a weight for each class, got {weights!r}."
        )
    for label, weight in weights.items():
        if not isinstance(weight, numbers.Real) or not 0 <= float(weight) < float("inf"):
            raise ValueError(
                f"class_weight must hold finite numbers of at least 0, got {weight!r} for class "
                f"{label!r}."
            )
