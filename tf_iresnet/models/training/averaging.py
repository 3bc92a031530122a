"""An exponential moving average of weights, kept and saved with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_real


@keras.saving.register_keras_serializable("tf_iresnet")
class WeightAverage(keras.layers.Layer):
    r"""Shadows of variables: a <- m a + (1 - m) w, with m_t = min(m, (1 + t) / (10 + t)).

    The warm-up keeps the first, untrained weights from lingering in the average.

    Args:
      momentum: m, in (0, 1).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if ``momentum`` is not in (0, 1).

    Example:
    >>> WeightAverage(0.99).momentum
    0.99

    Source: Polyak, Juditsky 1992; the warm-up is that of TensorFlow's moving averages.
    """

    def __init__(self, momentum: float, **kwargs: Any) -> None:
        super().__init__(autocast=False, trainable=False, **kwargs)
        self.momentum = check_real(
            "momentum", momentum, "must lie in (0, 1)", lambda value: 0.0 < value < 1.0
        )

    def build_for(self, variables: Sequence[keras.Variable]) -> None:
        """Makes a shadow of each variable, equal to it."""
        self.count = self.add_weight(
            name="count",
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
        )
        self.shadows = [
            self.add_weight(
                name=f"shadow_{index}",
                shape=variable.shape,
                dtype=variable.dtype,
                initializer=lambda shape, dtype, value=variable: tf.convert_to_tensor(value),
                trainable=False,
                autocast=False,
            )
            for index, variable in enumerate(variables)
        ]
        self.built = True

    def update(self, variables: Sequence[keras.Variable]) -> None:
        """Moves every shadow towards its variable, on each replica its own copy."""
        self.count.assign_add(1)
        count = tf.cast(tf.convert_to_tensor(self.count), tf.float32)
        momentum = tf.minimum(self.momentum, (1 + count) / (10 + count))
        for shadow, variable in zip(self.shadows, variables, strict=True):
            step = tf.cast(1 - momentum, shadow.dtype)
            value = tf.convert_to_tensor(variable)
            shadow.assign_add(step * (value - tf.convert_to_tensor(shadow)))
