"""The distribution of a flow's latents."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_flag
from tf_iresnet.layers.context import check_context_size
from tf_iresnet.typing import Config, Shape


@keras.saving.register_keras_serializable("tf_iresnet")
class DiagonalNormal(keras.layers.Layer):
    r"""A normal with independent coordinates, N(loc, exp(log_scale)^2), learned or fixed.

    With a context c, loc and log_scale are linear functions of c, which start constant.

    Args:
      learned: whether loc and log_scale are trained; otherwise they stay 0.
      context_size: features of the context; None for none.
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> prior = DiagonalNormal(learned=False)
    >>> prior.build((None, 2))
    >>> prior.log_prob(tf.zeros((1, 2))).numpy().round(4).tolist()
    [-1.8379]

    Source: Invertible Residual Networks, section 5.3.
    """

    def __init__(
        self, learned: bool = True, context_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.learned = check_flag("learned", learned)
        self.context_size = check_context_size(context_size)

    def build(self, input_shape: Shape) -> None:
        self.size = input_shape[-1]
        self.loc, self.log_scale = self._make(("loc", "log_scale"), (self.size,))
        if self.context_size is not None:
            shape = (self.context_size, self.size)
            self.loc_kernel, self.log_scale_kernel = self._make(
                ("loc_kernel", "log_scale_kernel"), shape
            )
        self.built = True

    def _make(self, names: tuple[str, ...], shape: tuple[int, ...]) -> list[keras.Variable]:
        options = {"initializer": "zeros", "trainable": self.learned, "autocast": False}
        return [self.add_weight(name=name, shape=shape, **options) for name in names]

    def parameters(self, context: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns loc and log_scale, [d], or [batch, d] for a context [batch, context_size]."""
        loc, log_scale = tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.log_scale)
        if context is None:
            return loc, log_scale
        kernels = (tf.convert_to_tensor(k) for k in (self.loc_kernel, self.log_scale_kernel))
        by_loc, by_log_scale = (tf.linalg.matmul(context, kernel) for kernel in kernels)
        return loc + by_loc, log_scale + by_log_scale

    def log_prob(self, z: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the log-density of z [batch, d] in nats, [batch]."""
        loc, log_scale = self.parameters(context)
        standard = (z - loc) * tf.exp(-log_scale)
        constant = 0.5 * self.size * math.log(2 * math.pi) + tf.reduce_sum(log_scale, axis=-1)
        return -0.5 * tf.reduce_sum(tf.square(standard), axis=1) - constant

    def sample(
        self,
        n: tf.Tensor | int,
        seed: tf.Tensor,
        temperature: tf.Tensor | float = 1.0,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws z [n, d], deviations scaled by the temperature.

        Args:
          n: how many.
          seed: int32 [3], see `tf_iresnet.randomness`.
          temperature: 1 for the distribution itself.
          context: [n, context_size], for a conditional prior.
        """
        noise = randomness.normal(seed, tf.zeros((n, self.size), self.variable_dtype))
        loc, log_scale = self.parameters(context)
        return loc + tf.cast(temperature, noise.dtype) * tf.exp(log_scale) * noise

    def get_config(self) -> Config:
        return {**super().get_config(), "learned": self.learned, "context_size": self.context_size}
