"""Whitening: a fixed linear map of the channels after which they are uncorrelated."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.arguments import check_real
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.fixed_point.enclosure import residual_error
from tf_iresnet.functions.enclosures import norm
from tf_iresnet.layers.data_initialized import DataInitialized, constant_channels
from tf_iresnet.norms.dense import EPSILON, round_up
from tf_iresnet.typing import ArrayLike, Config

_PLENTY = 10  # values of each channel, per channel: with so many, correlations are not shrunk


@keras.saving.register_keras_serializable("tf_iresnet")
class Whitening(DataInitialized):
    r"""y = W (x - m) for the channels of each pixel, with Cov(y) = 1 over some rows of data.

    W = L^-1 of the Cholesky factor in C + ridge diag(C) = L L^T, with m and C the channels' mean
    and covariance over the rows; W is lower triangular, so ln\|det\| = pixels sum(ln W_ii), and
    the inverse solves a triangular system. Both are statistics and are not trained. `adapt` sets
    them; without it the first batch of training does (see `DataInitialized`). A channel that is
    constant over the rows keeps its scale.

    Few rows say little about many correlations, and with no more rows than channels some directions
    have no variance at all. With fewer than 10 p values n of each of the p channels that are not
    constant, the correlations R are therefore multiplied by 1 - rho,

        rho = min(1, ((1 - 2/p) tr R^2 + p^2) / ((n + 1 - 2/p) (tr R^2 - p))),

    so that the outputs of other rows have a variance near 1 as well.

    After a squeeze the channels are neighbouring pixels, which are nearly equal in natural images.
    A branch whose slope is bounded takes many blocks to bring their small differences to the size
    of their sum; this layer does it at once.

    Args:
      ridge: what is added to each variance, as a share of it, above 0: no direction is amplified
        by more than the channels' own scale over sqrt(ridge).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if ``ridge`` is not in (0, 1].

    Example:
    >>> layer = Whitening()
    >>> x = np.random.default_rng(0).normal(size=(500, 2)) @ np.array([[1.0, 0.99], [0.0, 0.1]])
    >>> layer.adapt(x)
    >>> np.cov(layer(x).numpy().T).round(1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: as the first layer of a fast classifier, K. Jordan 2024 (94% on CIFAR-10 in 3.29
    seconds), section 3.2; by Cholesky factors, Kessy, Lewin, Strimmer 2018, section 4; few rows:
    Chen, Wiesel, Eldar, Hero 2010 (Shrinkage Algorithms for MMSE Covariance Estimation), the
    oracle approximating shrinkage, equation 23.
    """

    def __init__(self, ridge: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        due = "must be in (0, 1], such as 1e-4"
        self.ridge = check_real("ridge", ridge, due, lambda value: 0 < value <= 1)

    def _add_own_weights(self, channels: int) -> None:
        self.mean, self.matrix = (
            self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=False, autocast=False
            )
            for name, shape, initializer in (
                ("mean", (channels,), "zeros"),
                ("matrix", (channels, channels), keras.initializers.Identity()),
            )
        )

    def _starting_weights(self) -> list[tuple[keras.Variable, ArrayLike]]:
        return [(self.mean, 0.0), (self.matrix, np.eye(self.matrix.shape[0]))]

    def _values(self, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the mean and W of the rows."""
        dtype = parts[0].dtype
        # In float64, since the smallest eigenvalues count.
        count, mean, covariance = replicas.channel_covariance(
            *(tf.cast(x, tf.float64) for x in parts)
        )
        variances = tf.linalg.diag_part(covariance)
        constant = constant_channels(mean, variances, dtype)
        scale = tf.where(constant, tf.ones_like(variances), tf.sqrt(variances))
        # The covariances of a constant channel are mere rounding.
        constant_pair = constant[:, None] | constant[None, :]
        correlations = covariance / (scale[:, None] * scale[None, :])
        correlations = tf.where(constant_pair, tf.zeros_like(covariance), correlations)
        correlations *= 1 - _shrinkage(correlations, count, ~constant)
        diagonal = tf.where(constant, tf.ones_like(scale), (1 + self.ridge) * tf.ones_like(scale))
        factor = tf.linalg.cholesky(tf.linalg.set_diag(correlations, diagonal))
        matrix = tf.linalg.triangular_solve(factor, tf.linalg.diag(1 / scale))
        return [tf.cast(mean, dtype), tf.cast(matrix, dtype)]

    def _warn_if_few(self, count: int) -> None:
        channels = self.matrix.shape[0]
        if count <= channels:
            warnings.warn(
                f"{self.name} sees {count} values of each of its {channels} channels, too few to "
                "tell their correlations, which are shrunk. Call adapt(data) with more rows before "
                "training.",
                stacklevel=2,
            )

    def _map(self, x: tf.Tensor) -> tf.Tensor:
        centred = tf.reshape(x - tf.convert_to_tensor(self.mean), [-1, x.shape[-1]])
        y = tf.matmul(centred, tf.convert_to_tensor(self.matrix), transpose_b=True)
        return tf.reshape(y, tf.shape(x))

    def _map_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = x.shape[1:-1].num_elements()
        diagonal = tf.linalg.diag_part(tf.convert_to_tensor(self.matrix))
        value = pixels * tf.reduce_sum(tf.math.log(diagonal))
        return self._map(x), tf.fill(tf.shape(x)[:1], value)

    def _inverse(self, y):
        columns = tf.transpose(tf.reshape(y, [-1, y.shape[-1]]))
        solved = tf.linalg.triangular_solve(tf.convert_to_tensor(self.matrix), columns)
        x = tf.reshape(tf.transpose(solved), tf.shape(y)) + tf.convert_to_tensor(self.mean)

        def error() -> tf.Tensor:
            weights = (tf.convert_to_tensor(weight) for weight in (self.matrix, self.mean))
            wide, matrix, mean, target = (tf.cast(t, tf.float64) for t in (x, *weights, y))
            matrix = tf.linalg.band_part(matrix, -1, 0)  # what the triangular solve reads
            centred = tf.reshape(wide - mean, [-1, x.shape[-1]])
            value = tf.reshape(tf.matmul(centred, matrix, transpose_b=True), tf.shape(y))
            terms = (tf.abs(wide) + tf.abs(mean)) * tf.norm(matrix)
            rounding = 4 * (x.shape[-1] + 3) * EPSILON * norm(terms)
            return residual_error(value, target, rounding, self.amplification())

        return FixedPointResult.exact(x, error)

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        matrix = np.asarray(self.matrix, np.float64)
        if np.triu(matrix, 1).any() or not np.diag(matrix).all():
            return float("inf")  # the triangular solver would not find x again
        approximate = np.linalg.inv(matrix)
        # |W^-1| <= |X| / (1 - |1 - W X|) for any X near W^-1, by Frobenius norms.
        size = round_up(float(np.linalg.norm(approximate)), matrix.size)
        rounding = 2 * len(matrix) * EPSILON * float(np.linalg.norm(matrix)) * size
        defect = float(np.linalg.norm(np.eye(len(matrix)) - matrix @ approximate)) + rounding
        return round_up(size / (1 - 1.01 * defect), 8) if defect < 0.5 else float("inf")

    def get_config(self) -> Config:
        return {**super().get_config(), "ridge": self.ridge}


def _shrinkage(correlations: tf.Tensor, count: tf.Tensor, varying: tf.Tensor) -> tf.Tensor:
    """Returns rho of the class' docstring, 0 if there are enough values.

    Args:
      correlations: of the channels, zero for those that are constant, [channels, channels].
      count: values of each channel, a scalar.
      varying: which channels are not constant.
    """
    channels = tf.maximum(tf.reduce_sum(tf.cast(varying, correlations.dtype)), 1)
    squares = tf.reduce_sum(tf.square(correlations))
    found = (1 - 2 / channels) * squares + tf.square(channels)
    rho = found / ((count + 1 - 2 / channels) * tf.maximum(squares - channels, 1e-30))
    return tf.where(count < _PLENTY * channels, tf.minimum(rho, 1), tf.zeros_like(rho))
