"""Activation normalisation: an affine map of each channel, initialised from data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.bounds.dense import rounded_up
from tf_iresnet.fixed_point.enclosure import closed_form
from tf_iresnet.layers.data_initialized import DataInitialized


@keras.saving.register_keras_serializable("tf_iresnet")
class ActNorm(DataInitialized):
    r"""y = (x + b) exp(s), with s and b of each channel set so that one batch is standardised.

    ln\|det\| = pixels sum(s). The scale is an exponential and so never zero. Used alone in a plain
    Keras model it initialises itself at the first call with ``training=True``; the flag
    ``initialized`` is a weight, so that a restored layer is not initialised again. A channel
    that is constant over the batch keeps its scale.

    Args:
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> layer = ActNorm()
    >>> y = layer.initialize(np.array([[1.0], [3.0]], "float32"))
    >>> y.numpy().round(3).tolist()
    [[-1.0], [1.0]]

    Source: Kingma, Dhariwal 2018 (Glow), section 3.1.
    """

    def _add_own_weights(self, channels: int) -> None:
        self.log_scale, self.bias = (
            self.add_weight(name=name, shape=(channels,), initializer="zeros", autocast=False)
            for name in ("log_scale", "bias")
        )

    def _initialized_weights(self) -> list[keras.Variable]:
        return [self.bias, self.log_scale]

    def _initial(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Bias and log-scale that standardise the batch."""
        mean, variance = replicas.channel_moments(x)
        deviation = tf.sqrt(variance)
        constant = deviation <= 1e-6 * (1 + tf.abs(mean))
        return [-mean, -tf.math.log(tf.where(constant, tf.ones_like(deviation), deviation))]

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return (x + tf.convert_to_tensor(self.bias)) * tf.exp(tf.convert_to_tensor(self.log_scale))

    def _log_det(self, x, seed, log_det, training):
        pixels = x.shape[1:-1].num_elements()
        value = pixels * tf.reduce_sum(tf.convert_to_tensor(self.log_scale))
        return self.forward(x), tf.fill(tf.shape(x)[:1], value)

    def _inverse(self, y):
        return closed_form(
            lambda y, log_scale, bias: y * tf.exp(-log_scale) - bias,
            y,
            [tf.convert_to_tensor(weight) for weight in (self.log_scale, self.bias)],
            size=lambda y, log_scale, bias: tf.abs(y * tf.exp(-log_scale)) + tf.abs(bias),
        )

    def inverse_lipschitz_bound(self, sublayers: Any = None) -> float:
        scale = np.asarray(self.log_scale, np.float64)
        return rounded_up(float(np.exp(-scale.min())), 8)
