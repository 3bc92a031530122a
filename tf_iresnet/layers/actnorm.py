"""Activation normalisation: an affine map of each channel that starts from data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.fixed_point.enclosure import closed_form
from tf_iresnet.layers.data_initialized import DataInitialized, constant_channels
from tf_iresnet.norms.dense import round_up
from tf_iresnet.typing import ArrayLike


@keras.saving.register_keras_serializable("tf_iresnet")
class ActNorm(DataInitialized):
    r"""y = (x + b) exp(s), with s and b of each channel set so that data are standardised.

    ln\|det\| = pixels sum(s). The scale is an exponential and so never zero. `adapt` sets s and b
    from many rows; without it the first batch of training does (see `DataInitialized`). They are
    trained from then on. A constant channel keeps its scale; in a single row of points all
    channels are constant.

    Args:
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> layer, x = ActNorm(), np.array([[1.0], [3.0]], "float32")
    >>> layer.adapt(x)
    >>> layer(x).numpy().round(3).tolist()
    [[-1.0], [1.0]]

    Source: Kingma, Dhariwal 2018 (Glow), section 3.1.
    """

    def _add_own_weights(self, channels: int) -> None:
        self.log_scale, self.bias = (
            self.add_weight(name=name, shape=(channels,), initializer="zeros", autocast=False)
            for name in ("log_scale", "bias")
        )

    def _starting_weights(self) -> list[tuple[keras.Variable, ArrayLike]]:
        return [(self.bias, 0.0), (self.log_scale, 0.0)]

    def _values(self, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the bias and the log-scale that standardise the rows."""
        dtype = parts[0].dtype
        # In float64: squares and sums of many rows may overflow narrower types, and round in them.
        mean, variance = replicas.channel_moments(*(tf.cast(x, tf.float64) for x in parts))
        constant = constant_channels(mean, variance, dtype)
        deviation = tf.where(constant, tf.ones_like(variance), tf.sqrt(variance))
        return [tf.cast(-mean, dtype), tf.cast(-tf.math.log(deviation), dtype)]

    def _warn_if_few(self, count: int) -> None:
        if count == 1:
            warnings.warn(
                f"{self.name} sees a single row, from which no scale can be told: only its bias is "
                "set. Call adapt(data) with many rows before training.",
                stacklevel=2,
            )

    def _map(self, x: tf.Tensor) -> tf.Tensor:
        return (x + tf.convert_to_tensor(self.bias)) * tf.exp(tf.convert_to_tensor(self.log_scale))

    def _map_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = x.shape[1:-1].num_elements()
        value = pixels * tf.reduce_sum(tf.convert_to_tensor(self.log_scale))
        return self._map(x), tf.fill(tf.shape(x)[:1], value)

    def _inverse(self, y):
        return closed_form(
            lambda y, log_scale, bias: y * tf.exp(-log_scale) - bias,
            y,
            [tf.convert_to_tensor(weight) for weight in (self.log_scale, self.bias)],
            size=lambda y, log_scale, bias: tf.abs(y * tf.exp(-log_scale)) + tf.abs(bias),
        )

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        scale = np.asarray(self.log_scale, np.float64)
        with np.errstate(over="ignore"):  # an infinite bound says that none is known
            return round_up(float(np.exp(-scale.min())), 8)
