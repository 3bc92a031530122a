"""From pixels to what a flow's blocks see, with the Jacobian of the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_alpha, check_choice, check_integer
from tf_iresnet.batches import event_axes
from tf_iresnet.fixed_point.enclosure import closed_form
from tf_iresnet.layers.invertible import InvertibleLayer, zero_log_det
from tf_iresnet.norms.dense import round_up
from tf_iresnet.typing import Config, Shape, StaticShape


@keras.saving.register_keras_serializable("tf_iresnet")
class ImagePreprocessing(InvertibleLayer):
    r"""Maps dequantised pixels on [0, levels) to the real line, or to [-1/2, 1/2).

    "logit": y = logit(p) with p = alpha + (1 - 2 alpha) x / levels, and
    ln\|det\| = sum of ln((1 - 2 alpha) / levels) - ln p - ln(1 - p).
    "shift": y = x / levels - 1/2, ln\|det\| = -d ln(levels).

    Args:
      levels: how many values a pixel takes, at least 2 (256 for 8-bit images).
      kind: "logit" or "shift".
      alpha: how far p keeps from 0 and 1, in (0, 1/2); used by "logit".
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> ImagePreprocessing(256, "shift")(np.array([[128.0]], "float32")).numpy().tolist()
    [[0.0]]

    Source: Invertible Residual Networks, section 5.3 (shift); Residual Flows, section 4.1 (logit).
    """

    def __init__(
        self, levels: int = 256, kind: str = "logit", alpha: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.levels = check_integer("levels", levels, 2)
        self.kind = check_choice("kind", kind, ("logit", "shift"))
        self.alpha = check_alpha(alpha)

    def _probabilities(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns p and 1 - p, each without the cancellation of the other's complement."""
        scale = (1 - 2 * self.alpha) / self.levels
        return self.alpha + scale * x, self.alpha + scale * (self.levels - x)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self.kind == "shift":
            return x / self.levels - 0.5
        p, q = self._probabilities(x)
        return tf.math.log(p) - tf.math.log(q)

    def _log_det(self, x, seed, log_det, training):
        size = x.shape[1:].num_elements()
        if self.kind == "shift":
            return self.forward(x), zero_log_det(x) - size * math.log(self.levels)
        p, q = self._probabilities(x)
        log_p, log_q = tf.math.log(p), tf.math.log(q)
        value = -tf.reduce_sum(log_p + log_q, axis=event_axes(x))
        return log_p - log_q, value + size * math.log((1 - 2 * self.alpha) / self.levels)

    def _inverse(self, y):
        if self.kind == "shift":
            return closed_form(
                lambda y: (y + 0.5) * self.levels,
                y,
                [],
                size=lambda y: (tf.abs(y) + 0.5) * self.levels,
            )
        scale = (1 - 2 * self.alpha) / self.levels
        return closed_form(
            lambda y: (tf.sigmoid(y) - self.alpha) / scale,
            y,
            [],
            size=lambda y: tf.ones_like(y) / scale,
        )

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        if self.kind == "shift":
            return float(self.levels)
        return round_up(self.levels / (4 * (1 - 2 * self.alpha)), 4)

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        return tuple(output_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "levels": self.levels,
            "kind": self.kind,
            "alpha": self.alpha,
        }
