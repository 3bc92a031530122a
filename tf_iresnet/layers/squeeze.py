"""Space to depth: an invertible down-sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.invertible import InvertibleLayer, zero_log_det
from tf_iresnet.typing import Shape, StaticShape


@keras.saving.register_keras_serializable("tf_iresnet")
class Squeeze(InvertibleLayer):
    r"""Moves each block of factor^r pixels into channels: a permutation, log-determinant 0.

    [batch, h, w, c] becomes [batch, h / f, w / f, f^2 c]; likewise with one or three spatial axes.

    Args:
      factor: side f of a block, at least 2.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the factor is below 2, or a spatial size is no multiple of it.

    Example:
    >>> Squeeze()(np.zeros((1, 28, 28, 1), "float32")).shape
    TensorShape([1, 14, 14, 4])

    Source: Dinh, Sohl-Dickstein, Bengio 2017 (Real NVP), section 3.6; Invertible Residual
    Networks, section 5.
    """

    def __init__(self, factor: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = check_integer("factor", factor, 2)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        if len(input_shape) not in (3, 4, 5):
            raise ValueError(
                f"{self.name} needs inputs [batch, spatial sizes, channels], got {input_shape}."
            )
        *spatial, channels = input_shape[1:]
        if any(size is not None and size % self.factor for size in spatial):
            raise ValueError(
                f"{self.name}: spatial sizes {tuple(spatial)} are no multiples of factor "
                f"{self.factor}; pad or crop the images, or use fewer squeezes."
            )
        sizes = (None if size is None else size // self.factor for size in spatial)
        return (input_shape[0], *sizes, channels * self.factor ** len(spatial))

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        return 1.0

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        *spatial, channels = output_shape[1:]
        taps = self.factor ** len(spatial)
        if channels % taps:
            raise ValueError(
                f"{self.name}: {channels} channels of an output are no multiple of {taps}."
            )
        sizes = (None if size is None else size * self.factor for size in spatial)
        return (output_shape[0], *sizes, channels // taps)

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        *spatial, channels = x.shape[1:]
        f, rank = self.factor, len(spatial)
        x = tf.reshape(x, [-1, *(part for size in spatial for part in (size // f, f)), channels])
        pixels, taps = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        x = tf.transpose(x, [0, *pixels, *taps, 2 * rank + 1])
        return tf.reshape(x, [-1, *(size // f for size in spatial), channels * f**rank])

    def _log_det(self, x, seed, log_det, training):
        return self.forward(x), zero_log_det(x)

    def _inverse(self, y):
        *spatial, channels = y.shape[1:]
        f, rank = self.factor, len(spatial)
        x = tf.reshape(y, [-1, *spatial, *[f] * rank, channels // f**rank])
        order = [
            axis
            for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True)
            for axis in pair
        ]
        x = tf.transpose(x, [0, *order, 2 * rank + 1])
        shape = [-1, *(size * f for size in spatial), channels // f**rank]
        return FixedPointResult.exact(tf.reshape(x, shape))
