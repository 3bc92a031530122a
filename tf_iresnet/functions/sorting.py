"""Sorting pairs of channels: an activation that moves numbers and changes none."""

from __future__ import annotations

import tensorflow as tf

from tf_iresnet.functions.function import Function


@tf.custom_gradient
def _neighbours(x):
    """Exchanges neighbouring channels: (b, a, d, c, ...) of (a, b, c, d, ...)."""
    pairs = tf.reshape(x, tf.concat([tf.shape(x)[:-1], [-1, 2]], axis=0))
    wide = {2: tf.uint32, 4: tf.uint64}.get(x.dtype.size)
    if wide is None:
        pairs = tf.reverse(pairs, axis=[-1])
    else:
        # A pair as one integer, rotated by half: several times as fast as a reversal.
        bits, half = tf.bitcast(pairs, wide), tf.constant(8 * x.dtype.size, wide)
        bits = tf.bitwise.left_shift(bits, half) | tf.bitwise.right_shift(bits, half)
        pairs = tf.bitcast(bits, x.dtype)
    # An exchange is its own transpose.
    return tf.ensure_shape(tf.reshape(pairs, tf.shape(x)), x.shape), _neighbours


def _exchange(swap, x):
    return tf.where(swap, _neighbours(x), x)


class PairSort(Function):
    """Sorts neighbouring pairs of channels: an orthogonal permutation at every point."""

    def linearize(self, parameters, x):
        other = _neighbours(x)
        first = tf.range(tf.shape(x)[-1]) % 2 == 0
        swap = tf.where(first, x < other, other < x)
        # A pair that holds a NaN has no larger one: both are NaN.
        return tf.where(swap | tf.math.is_nan(other), other, x), swap

    def enclose(self, parameters, x, error):
        return self(parameters, x), error  # sorting pairs is 1-Lipschitz and rounds nothing

    def jvp(self, parameters, residuals, tangent):
        return _exchange(residuals, tangent), tangent

    def vjp(self, parameters, residuals, cotangent):
        return _exchange(residuals, cotangent)  # its own transpose

    def gradient(self, parameters, residuals, upstream, products=()):
        return self.vjp(parameters, residuals, upstream), []
