r"""Bounds of rounding: values in float64, each with a bound of its distance to the exact one.

Distances are Euclidean, per example. A function that encloses its value takes x and a bound e of
\|x - exact x\| and returns y and a bound of \|y - exact y\|. The parameters are taken to be exact.
Bounds count roundings of float64 and so lie far below those of float32, whose results they judge.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_iresnet.batches import event_axes

EPSILON = float(np.finfo(np.float64).eps)
#: Units in the last place that an elementary function of TensorFlow may be off by, with a margin.
ELEMENTARY = 64.0
# Covers every order in which products are summed, blocked or fused, and the norms' own roundings.
_MARGIN = 4.0


def norm(x: tf.Tensor) -> tf.Tensor:
    """Returns the Euclidean norm of each example, [batch], as float64."""
    x = tf.cast(x, tf.float64)
    axes = event_axes(x)
    # Squares of very large or small entries would leave float64's range.
    scale = tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    return tf.squeeze(scale, axes) * tf.sqrt(tf.reduce_sum(tf.square(x / scale), axis=axes))


def bound_elementary(x: tf.Tensor, y: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
    """Bounds the error of y = phi(x) for a 1-Lipschitz elementary phi, entry by entry."""
    return error + ELEMENTARY * EPSILON * (norm(x) + norm(y))


def bound_affine(
    kernel: tf.Tensor, bias: tf.Tensor | None, x: tf.Tensor, y: tf.Tensor, error: tf.Tensor
) -> tf.Tensor:
    r"""Bounds the error of y = W x + b for a dense map or a convolution.

    A sum of k products is off by at most k units of \|W\| \|x\|, and the operator's norm, that of
    its absolute values too, is at most the sum of its taps' Frobenius norms.
    """
    terms = math.prod(kernel.shape[:-1]) + 2
    taps = tf.reshape(kernel, [-1, *kernel.shape[-2:]])
    size = tf.reduce_sum(tf.sqrt(tf.reduce_sum(tf.square(taps), axis=[1, 2])))
    value = size * norm(x)
    if bias is not None:
        value += math.sqrt(math.prod(y.shape[1:-1])) * tf.norm(bias, axis=-1)
    return (1 + _MARGIN * terms * EPSILON) * size * error + _MARGIN * terms * EPSILON * value
