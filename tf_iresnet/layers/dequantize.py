"""Dequantisation: from integers to numbers that have a density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_integer
from tf_iresnet.batches import event_axes, expand_like
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.invertible import InvertibleLayer, zero_log_det
from tf_iresnet.typing import Config, Shape, StaticShape


@keras.saving.register_keras_serializable("tf_iresnet")
class Dequantize(InvertibleLayer):
    r"""y = x + u with u uniform on (0, 1), for integers x in [0, levels).

    The inverse is floor(y), clipped to the range, so that x -> y -> x is exact. The
    log-determinant is 0: for y of the density p, E[ln p(x + u)] is a lower bound of ln P(x), tight
    where p is constant on the cells.

    ``forward_and_log_det`` draws the noise of an example from its seed and its index, as all
    layers do. `call` in training draws anew each time; otherwise it takes the layer's ``seed``, and
    the noise depends on the place in the batch alone. The noise takes the midpoints of a regular
    grid, the finest that leaves x + u exact: of 2^15 points in float32 for up to 256 levels.

    Args:
      levels: how many values x takes, at least 2 (256 for 8-bit images).
      seed: of the noise outside of training, an integer.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range. In eager code also if x holds other numbers than
        integers in [0, levels); in graphs those examples become NaN.

    Example:
    >>> layer = Dequantize(256)
    >>> x = np.array([[0, 7, 255]], "uint8")
    >>> y, log_det = layer.forward_and_log_det(x, seed=1)
    >>> np.floor(y).tolist(), layer.inverse(y).numpy().tolist(), log_det.numpy().tolist()
    ([[0.0, 7.0, 255.0]], [[0.0, 7.0, 255.0]], [0.0])

    Source: Theis, van den Oord, Bethge 2016 (A note on the evaluation of generative models).
    """

    def __init__(self, levels: int = 256, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = check_integer("levels", levels, 2)
        self.seed = check_integer("seed", seed)
        noise_bits(self.levels, tf.as_dtype(self.variable_dtype))

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._add_noise(x, randomness.as_seed(None if training else self.seed))

    def _log_det(self, x, seed, log_det, training):
        return self._add_noise(x, seed), zero_log_det(x)

    def _add_noise(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        inside = is_pixel(x, self.levels)
        if tf.executing_eagerly() and not bool(tf.reduce_all(inside)):
            wrong = tf.boolean_mask(x, ~inside)[0]
            raise ValueError(
                f"x must hold integers in [0, {self.levels}), got {float(wrong):g}; {self.name} "
                "adds the noise itself."
            )
        return nan_unless(inside, dequantize(x, seed, self.levels))

    def _inverse(self, y):
        return FixedPointResult.exact(tf.clip_by_value(tf.floor(y), 0, self.levels - 1))

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        return math.inf  # it jumps

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        return tuple(output_shape)

    def get_config(self) -> Config:
        return {**super().get_config(), "levels": self.levels, "seed": self.seed}


def dequantize(x: tf.Tensor, seed: tf.Tensor, levels: int) -> tf.Tensor:
    """Adds noise on (0, 1) to whole numbers, for each example its own.

    Args:
      x: whole numbers in [0, levels), as floats.
      seed: as in `tf_iresnet.randomness`.
      levels: how many values x takes.

    Returns:
      x + u, of the shape and dtype of x; its floor is x.

    Example:
    >>> y = dequantize(tf.constant([[3.0, 7.0]]), randomness.as_seed(0), 256)
    >>> tf.floor(y).numpy().tolist()
    [[3.0, 7.0]]
    """
    return x + randomness.midpoints(seed, x, noise_bits(levels, x.dtype))


def noise_bits(levels: int, dtype: tf.DType) -> int:
    """Returns how many bits of noise leave x + u exact, at most 15.

    Raises:
      ValueError: if the dtype cannot tell a pixel from its noise.

    Example:
    >>> noise_bits(256, tf.float32), noise_bits(2**16, tf.float32)
    (15, 7)
    """
    digits = {tf.float64: 53, tf.float32: 24, tf.float16: 11, tf.bfloat16: 8}[dtype]
    bits = min(15, digits - 1 - (levels - 1).bit_length())
    if bits < 1:
        raise ValueError(
            f"levels={levels} leaves no digits for noise in {dtype.name}; use a wider dtype."
        )
    return bits


def is_pixel(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Says of each number whether it is whole and in [0, levels)."""
    return (x >= 0) & (x < levels) & (tf.floor(x) == x)


def nan_unless(holds: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns y, with NaN in each example for which a condition does not hold throughout.

    Args:
      holds: the condition, bool [batch, ...].
      y: [batch, ...].

    Example:
    >>> nan_unless(tf.constant([[True], [False]]), tf.constant([[1.0], [2.0]])).numpy().tolist()
    [[1.0], [nan]]
    """
    all_hold = tf.reduce_all(holds, axis=event_axes(holds))
    all_hold = expand_like(all_hold, y)
    return tf.where(all_hold, y, tf.cast(float("nan"), y.dtype))
