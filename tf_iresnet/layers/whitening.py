"""Whitening: a fixed linear map of the channels after which they are uncorrelated."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.bounds.dense import EPSILON, rounded_up
from tf_iresnet.enclosures import norm
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.fixed_point.enclosure import residual_error
from tf_iresnet.layers.data_initialized import DataInitialized


@keras.saving.register_keras_serializable("tf_iresnet")
class Whitening(DataInitialized):
    r"""y = W (x - m) for the channels of each pixel, with Cov(y) = 1 over one batch.

    W = L^-1 of the Cholesky factor in C + ridge diag(C) = L L^T, with m and C the channels' mean
    and covariance over the batch; W is lower triangular, so ln\|det\| = pixels sum(ln W_ii), and
    the inverse solves a triangular system. Both are kept as they are: statistics, no parameters. A
    channel that is constant over the batch keeps its scale.

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
    >>> y = layer.initialize(x.astype("float32"))
    >>> np.cov(y.numpy().T).round(1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: as the first layer of a fast classifier, K. Jordan 2024 (94% on CIFAR-10 in 3.29
    seconds), section 3.2; by Cholesky factors, Kessy, Lewin, Strimmer 2018, section 4.
    """

    def __init__(self, ridge: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < ridge <= 1:
            raise ValueError(f"ridge must be in (0, 1], got {ridge!r}; 1e-4 suits images.")
        self.ridge = float(ridge)

    def _add_own_weights(self, channels: int) -> None:
        self.mean, self.matrix = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
            for name, shape, initializer in (
                ("mean", (channels,), "zeros"),
                ("matrix", (channels, channels), keras.initializers.Identity()),
            )
        )

    def _initialized_weights(self) -> list[keras.Variable]:
        return [self.mean, self.matrix]

    def _initial(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Mean and W of the batch."""
        # In float64, since the smallest eigenvalues count.
        mean, covariance = replicas.channel_covariance(tf.cast(x, tf.float64))
        variances = tf.linalg.diag_part(covariance)
        constant = tf.sqrt(variances) <= 1e-6 * (1 + tf.abs(mean))
        added = tf.where(constant, tf.ones_like(variances), self.ridge * variances)
        factor = tf.linalg.cholesky(covariance + tf.linalg.diag(added))
        identity = tf.eye(x.shape[-1], dtype=tf.float64)
        matrix = tf.linalg.triangular_solve(factor, identity)
        return [tf.cast(mean, x.dtype), tf.cast(matrix, x.dtype)]

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        centred = tf.reshape(x - tf.convert_to_tensor(self.mean), [-1, x.shape[-1]])
        y = tf.matmul(centred, tf.convert_to_tensor(self.matrix), transpose_b=True)
        return tf.reshape(y, tf.shape(x))

    def _log_det(self, x, seed, log_det, training):
        pixels = x.shape[1:-1].num_elements()
        diagonal = tf.linalg.diag_part(tf.convert_to_tensor(self.matrix))
        value = pixels * tf.reduce_sum(tf.math.log(diagonal))
        return self.forward(x), tf.fill(tf.shape(x)[:1], value)

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

    def inverse_lipschitz_bound(self, sublayers: Any = None) -> float:
        matrix = np.tril(np.asarray(self.matrix, np.float64))
        approximate = np.linalg.inv(matrix)
        # |W^-1| <= |X| / (1 - |1 - W X|) for any X near W^-1, by Frobenius norms.
        size = rounded_up(float(np.linalg.norm(approximate)), matrix.size)
        rounding = 2 * len(matrix) * EPSILON * float(np.linalg.norm(matrix)) * size
        defect = float(np.linalg.norm(np.eye(len(matrix)) - matrix @ approximate)) + rounding
        return rounded_up(size / (1 - 1.01 * defect), 8) if defect < 0.5 else float("inf")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ridge": self.ridge}
