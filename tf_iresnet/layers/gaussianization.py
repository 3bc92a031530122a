"""A learned elementwise map that gives pixels a normal marginal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.arguments import check_alpha, check_integer
from tf_iresnet.batches import event_axes
from tf_iresnet.fixed_point.enclosure import closed_form
from tf_iresnet.layers.data_initialized import DataInitialized
from tf_iresnet.typing import ArrayLike, Config


@keras.saving.register_keras_serializable("tf_iresnet")
class MarginalGaussianization(DataInitialized):
    r"""y = Phi^{-1}(F(x)) with F the learned distribution of dequantised pixels on [0, levels).

    Uniform dequantisation makes the density of a pixel constant between two integers, so F is
    linear there, of slope w_k (1 - 2 alpha) on [k, k + 1), with w = softmax(logits), and
    F(0) = alpha. ln\|det\| = sum of ln F'(x) + y^2 / 2 + ln(2 pi) / 2. `adapt`, or else the first
    batch of training, sets w to the histogram of some rows; training goes on from there. A flow
    needs many blocks to bend the uniform noise on an image's plain ground into a normal; this layer
    does it at once.

    Args:
      levels: how many values a pixel takes, at least 2.
      alpha: how far F keeps from 0 and 1, in (0, 1/2).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> layer = MarginalGaussianization(2)
    >>> layer(np.array([[1.0]], "float32")).numpy().round(3).tolist()
    [[0.0]]

    Source: Chen, Gopinath 2000 (Gaussianization), marginal step.
    """

    def __init__(self, levels: int = 256, alpha: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = check_integer("levels", levels, 2)
        self.alpha = check_alpha(alpha)

    def _add_own_weights(self, channels: int) -> None:
        self.logits = self.add_weight(
            name="logits", shape=(self.levels,), initializer="zeros", autocast=False
        )

    def _starting_weights(self) -> list[tuple[keras.Variable, ArrayLike]]:
        return [(self.logits, 0.0)]

    def _values(self, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the logarithm of the rows' histogram."""
        counts = sum(
            tf.cast(
                tf.math.bincount(self._level(tf.reshape(x, [-1])), minlength=self.levels),
                tf.float64,
            )
            for x in parts
        )
        counts = replicas.all_reduce_sum(counts)
        # A hundredth of the mass is spread evenly: no level gets the weight zero.
        smooth = counts + 0.01 * tf.reduce_mean(counts)
        return [tf.cast(tf.math.log(smooth / tf.reduce_sum(smooth)), parts[0].dtype)]

    def _level(self, x: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.cast(tf.floor(x), tf.int32), 0, self.levels - 1)

    def _table(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the slope of F, F at the left end and 1 - F at the right end of each level."""
        slope = (1 - 2 * self.alpha) * tf.nn.softmax(logits)
        below = self.alpha + tf.cumsum(slope, exclusive=True)
        above = self.alpha + tf.cumsum(slope, exclusive=True, reverse=True)
        return slope, below, above

    def _transform(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and ln F'(x)."""
        table = self._table(tf.convert_to_tensor(self.logits))
        slope, below, above = (tf.gather(t, self._level(x)) for t in table)
        inside = x - tf.cast(self._level(x), x.dtype)
        lower, upper = below + slope * inside, above + slope * (1 - inside)
        # The smaller of F and 1 - F is the accurate one.
        y = tf.where(
            lower < upper,
            tf.math.ndtri(tf.minimum(lower, 0.75)),
            -tf.math.ndtri(tf.minimum(upper, 0.75)),
        )
        return y, tf.math.log(slope)

    def _map(self, x: tf.Tensor) -> tf.Tensor:
        return self._transform(x)[0]

    def _map_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y, log_slope = self._transform(x)
        value = log_slope + 0.5 * tf.square(y) + 0.5 * math.log(2 * math.pi)
        return y, tf.reduce_sum(value, axis=event_axes(x))

    def _inverse(self, y):
        return closed_form(
            self._quantile,
            y,
            [tf.convert_to_tensor(self.logits)],
            # The levels' probabilities are sums of as many terms, divided by the slopes.
            size=lambda y, logits: (
                self.levels * tf.ones_like(y) * (1 + 1 / tf.reduce_min(self._table(logits)[0]))
            ),
        )

    def _quantile(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns F^{-1}(Phi(y))."""
        slope, below, above = self._table(logits)
        root = math.sqrt(0.5)
        lower, upper = 0.5 * tf.math.erfc(-root * y), 0.5 * tf.math.erfc(root * y)
        flat = tf.reshape(lower, [-1])
        level = tf.searchsorted(below, flat, side="right") - 1
        # The upper half is looked up by its complement, ascending from the right.
        rising = tf.searchsorted(tf.reverse(above, [0]), tf.reshape(upper, [-1]), side="right") - 1
        level = tf.where(flat < 0.5, level, self.levels - 1 - rising)
        level = tf.reshape(tf.clip_by_value(level, 0, self.levels - 1), tf.shape(y))
        slope, below, above = (tf.gather(t, level) for t in (slope, below, above))
        inside = tf.where(y < 0, (lower - below) / slope, 1 - (upper - above) / slope)
        x = tf.cast(level, y.dtype) + inside
        return tf.ensure_shape(x, y.shape)

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        # dx/dy = phi(y) / F'(x): on each level phi is largest where F is nearest to 1/2.
        logits = np.asarray(self.logits, np.float64)
        weights = np.exp(logits - logits.max())
        slope = (1 - 2 * self.alpha) * weights / weights.sum()
        below = self.alpha + np.cumsum(slope) - slope
        normal = statistics.NormalDist()
        nearest = np.clip(0.5, below, below + slope)
        heights = [normal.pdf(normal.inv_cdf(float(min(f, 1 - f)))) for f in nearest]
        return float((heights / slope).max()) * (1 + 1e-9)  # `inv_cdf` is good to 16 digits

    def get_config(self) -> Config:
        return {**super().get_config(), "levels": self.levels, "alpha": self.alpha}
