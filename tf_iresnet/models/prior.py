"""The distribution of a flow's latents."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness


class DiagonalNormal(keras.layers.Layer):
    r"""A normal with independent coordinates, N(loc, exp(log_scale)^2), learned or fixed.

    Args:
      learned: whether loc and log_scale are trained; otherwise they stay 0.
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> prior = DiagonalNormal(learned=False)
    >>> prior.build((None, 2))
    >>> prior.log_prob(tf.zeros((1, 2))).numpy().round(4).tolist()
    [-1.8379]

    Source: Invertible Residual Networks, section 5.3.
    """

    def __init__(self, learned: bool = True, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.learned = bool(learned)

    def build(self, input_shape: Any) -> None:
        self.size = input_shape[-1]
        self.loc, self.log_scale = (
            self.add_weight(
                name=name,
                shape=(self.size,),
                initializer="zeros",
                trainable=self.learned,
                autocast=False,
            )
            for name in ("loc", "log_scale")
        )
        self.built = True

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the log-density of z [batch, d] in nats, [batch]."""
        log_scale = tf.convert_to_tensor(self.log_scale)
        standard = (z - tf.convert_to_tensor(self.loc)) * tf.exp(-log_scale)
        constant = 0.5 * self.size * math.log(2 * math.pi) + tf.reduce_sum(log_scale)
        return -0.5 * tf.reduce_sum(tf.square(standard), axis=1) - constant

    def sample(self, n: Any, seed: tf.Tensor, temperature: Any = 1.0) -> tf.Tensor:
        """Draws z [n, d], deviations scaled by the temperature.

        Args:
          n: how many.
          seed: int32 [3], see `tf_iresnet.randomness`.
          temperature: 1 for the distribution itself.
        """
        noise = randomness.normal(seed, tf.zeros((n, self.size), self.variable_dtype))
        scale = tf.cast(temperature, noise.dtype) * tf.exp(tf.convert_to_tensor(self.log_scale))
        return tf.convert_to_tensor(self.loc) + scale * noise

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "learned": self.learned}
