"""Classifiers by features from which the image can be recovered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import keras
import tensorflow as tf

from tf_iresnet.arguments import (
    check_flag,
    check_instance,
    check_integer,
    check_integers,
)
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.padding import InjectivePadding
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.models.architecture import Architecture
from tf_iresnet.models.compiled_loss import CompiledLoss
from tf_iresnet.models.invertible_model import InvertibleModel
from tf_iresnet.models.training.events import Event, convert_event
from tf_iresnet.models.training.replicated import BatchNormalization
from tf_iresnet.options import restore
from tf_iresnet.typing import ArrayLike, Config


class FeatureClassifier(InvertibleModel):
    r"""Logits = head(f(x)) with f invertible layers.

    f is injective padding, then the scales of an architecture. The head is BatchNorm, ReLU, global
    average pooling and Dense.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      architecture: what the scales are made of.
      padding: channels of zeros to append to the image; 0 for none.
      squeeze_first: whether the first scale starts with a squeeze, as the others do.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        architecture: Architecture,
        *,
        padding: int = 0,
        squeeze_first: bool = True,
        ema_momentum: float | None = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        self.event_shape = check_integers("event_shape", event_shape, "axis of one image")
        if len(self.event_shape) != 3:
            raise ValueError(f"event_shape must be (height, width, channels), got {event_shape!r}.")
        self.classes = check_integer("classes", classes, 2)
        check_instance("architecture", architecture, Architecture, "IResNet()")
        self.architecture = architecture
        self.padding = check_integer("padding", padding, 0)
        self.squeeze_first = check_flag("squeeze_first", squeeze_first)
        self._build_features()
        owner, event = f"the classifier {self.name}", Event(self.event_shape, self.variable_dtype)
        state = self.head.non_trainable_variables
        self._compose(CompiledLoss(owner, event, self, self._logits, state))

    def _build_features(self) -> None:
        """Builds layers and head."""
        policy = self.dtype_policy
        layers: list[InvertibleLayer] = []
        if self.padding:
            layers.append(InjectivePadding(self.padding, dtype=policy, name="padding"))
        *space, channels = self.event_shape
        layers += self.architecture.scales(
            (*space, channels + self.padding),
            squeeze_first=self.squeeze_first,
            densities=False,
            dtype=policy,
        )
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
        self.head.autocast = False  # the layers cast; a Sequential rounds float64 to float32
        self.head.build(self.flow.compute_output_shape((None, *self.event_shape)))

    def call(self, x: ArrayLike, training: bool | None = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]."""
        return self._logits(self._event.check(x), bool(training))

    def _logits(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the logits of data that may hold NaN, which makes the logits NaN."""
        return self.head(self.flow.evaluate(x, training), training=training)

    def encode(self, x: ArrayLike) -> tf.Tensor:
        """Returns the features f(x), the last invertible feature map.

        Args:
          x: images, [batch, *event_shape].

        Returns:
          [batch, height, width, channels] of the last scale.
        """
        return self.flow.evaluate(self._event.check(x))

    @overload
    def decode(self, features: ArrayLike, return_result: Literal[False] = ...) -> tf.Tensor: ...

    @overload
    def decode(self, features: ArrayLike, return_result: Literal[True]) -> FixedPointResult: ...

    def decode(
        self, features: ArrayLike, return_result: bool = False
    ) -> tf.Tensor | FixedPointResult:
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
        features = convert_event("features", features, shape, self.variable_dtype)
        return self.flow.invert(features, return_result)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "classes": self.classes,
            "padding": self.padding,
            "squeeze_first": self.squeeze_first,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> FeatureClassifier:
        return cls(**restore(config))
