"""Values that follow from a failed inverse: NaN, with gradients that are NaN."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_iresnet.batches import expand_like


def nan_where_failed(x: tf.Tensor, sound: tf.Tensor) -> tf.Tensor:
    """Returns x where it is sound, and NaN elsewhere; its gradients are NaN there as well.

    The gradient of `tf.where` is 0 at entries that it drops. By it, a training step would treat a
    failed example as one without influence.

    Args:
      x: [batch, ...].
      sound: which examples are, bool [batch].

    Example:
    >>> x = tf.constant([1.0, 2.0])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = nan_where_failed(x, tf.constant([True, False]))
    >>> tape.gradient(y, x).numpy().tolist()
    [1.0, nan]
    """

    @tf.custom_gradient
    def mark(x):
        def where_sound(values):
            mask = expand_like(sound, values)
            return tf.where(mask, values, tf.constant(math.nan, values.dtype))

        return where_sound(x), where_sound

    return mark(x)
