"""Injective padding: more channels for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.typing import ArrayLike, Shape, StaticShape


@keras.saving.register_keras_serializable("tf_iresnet")
class InjectivePadding(InvertibleLayer):
    """Appends channels of zeros: injective, but no bijection of the space it maps to.

    It has no density on its output space, so `forward_and_log_det` raises and flows refuse it. The
    inverse drops the added channels; `dropped_norm` says how far they are from zero.

    Args:
      channels: how many channels to add, at least 1.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if ``channels`` is below 1.

    Example:
    >>> InjectivePadding(2)(np.ones((1, 1), "float32")).numpy().tolist()
    [[1.0, 0.0, 0.0]]

    Source: Invertible Residual Networks, section 5.1 (injective padding of i-RevNet).
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = check_integer("channels", channels, 1)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return (*input_shape[:-1], input_shape[-1] + self.channels)

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        if output_shape[-1] <= self.channels:
            raise ValueError(
                f"{self.name} adds {self.channels} channels: an output has more than "
                f"{output_shape[-1]}."
            )
        return (*output_shape[:-1], output_shape[-1] - self.channels)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[0, self.channels]])

    def _log_det(self, x, seed, log_det, training):
        raise ValueError(
            f"{self.name} has no log-determinant: padding with zeros maps onto a set of volume "
            "zero. Leave InjectivePadding out of flows."
        )

    def _inverse(self, y):
        return FixedPointResult.exact(y[..., : -self.channels])

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        return 1.0

    def dropped_norm(self, y: ArrayLike) -> tf.Tensor:
        """Returns the Euclidean norm of the channels that the inverse drops, [batch]."""
        dropped = tf.convert_to_tensor(y)[..., -self.channels :]
        return tf.norm(tf.reshape(dropped, [tf.shape(dropped)[0], -1]), axis=1)
