"""The classification loss of a batch, summed over a replica's examples."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_iresnet.models.model import InvertibleModel


def summed_loss(
    model: InvertibleModel,
    x: tf.Tensor,
    y: Any,
    logits: tf.Tensor,
    sample_weight: Any,
    training: bool,
) -> tf.Tensor:
    """Returns the sum over examples of the loss that a model was compiled with.

    Args:
      model: a compiled model.
      x: [batch, ...], the examples of this replica.
      y: their labels.
      logits: [batch, classes].
      sample_weight: of the examples, or None.
      training: whether this is a training step.

    Returns:
      A scalar; 0 for no examples, whose mean is no number.
    """
    mean = model.compute_loss(x, y, logits, sample_weight, training=training)
    # Keras divides a replica's mean by the number of replicas.
    mean = tf.cast(mean, model.variable_dtype)
    mean *= tf.distribute.get_strategy().num_replicas_in_sync
    count = tf.cast(tf.shape(logits)[0], mean.dtype)
    return tf.where(count > 0, mean * count, 0)
