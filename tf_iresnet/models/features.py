"""Classifiers by features from which the image can be recovered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import checked_integer, checked_integers
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.models.classification import Classification
from tf_iresnet.models.model import InvertibleModel
from tf_iresnet.models.replicated import BatchNormalization


class FeatureClassifier(Classification, InvertibleModel):
    r"""Logits = head(f(x)) with f invertible layers.

    A subclass sets its own arguments, then calls `_build_features` with its layers. The head is
    BatchNorm, ReLU, global average pooling and Dense.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        ema_momentum: float | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        self.event_shape = checked_integers("event_shape", event_shape, "axis of one image")
        if len(self.event_shape) != 3:
            raise ValueError(f"event_shape must be (height, width, channels), got {event_shape!r}.")
        self.classes = checked_integer("classes", classes, 2)

    def _build_features(self, layers: Sequence[InvertibleLayer]) -> None:
        """Builds layers and head."""
        policy = self.dtype_policy
        self.flow = InvertibleSequential(layers, name="flow", dtype=policy)
        self.flow.build((None, *self.event_shape))
        self.head = keras.Sequential(
            [
                # As in the paper's code; Keras' own 0.99 lags behind for hundreds of steps.
                BatchNormalization(momentum=0.9, dtype=policy),
                keras.layers.ReLU(dtype=policy),
                keras.layers.GlobalAveragePooling2D(dtype=policy),
                # Logits in full precision: in bfloat16 the largest two are often equal.
                keras.layers.Dense(self.classes, dtype=self.variable_dtype),
            ],
            name="head",
        )
        self.head.autocast = False  # the layers cast; a Sequential would round to float32
        self.head.build(self.flow.compute_output_shape((None, *self.event_shape)))
        self._finish_build()

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]."""
        return self._logits(self._checked(x), training)

    def _logits(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        return self.head(self.flow.forward(x, training=bool(training)), training=training)

    def encode(self, x: Any) -> tf.Tensor:
        """Returns the features f(x), the last invertible feature map.

        Args:
          x: images, [batch, *event_shape].

        Returns:
          [batch, height, width, channels] of the last scale.
        """
        return self.flow.forward(self._checked(x))

    def decode(self, features: Any, return_result: bool = False) -> Any:
        """Returns the images of features.

        Args:
          features: of the shape that `encode` returns.
          return_result: whether to return the solver's `FixedPointResult` instead.

        Returns:
          x [batch, *event_shape], or the result.

        Raises:
          ValueError: if the features have another shape.
          ConvergenceError: in eager code, if an example did not converge.
        """
        shape = self.flow.compute_output_shape((None, *self.event_shape))[1:]
        features = self._checked_shape("features", features, shape)
        return self.flow.inverse(features, return_result=return_result)

    def _forward_state(self) -> list[keras.Variable]:
        return self.head.non_trainable_variables

    def get_config(self) -> dict[str, Any]:
        return {
            **self._base_config(),
            "event_shape": self.event_shape,
            "classes": self.classes,
            "ema_momentum": self.ema_momentum,
        }
