"""Layers whose weights are set from the first batch."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.layers.invertible import InvertibleLayer


class DataInitialized(InvertibleLayer):
    """A layer that sets some of its weights from one batch, and keeps or trains them from then on.

    Used alone in a plain Keras model it does so at the first call with ``training=True``; the flag
    ``initialized`` is a weight, so that a restored layer is not initialised again. Over several
    replicas the batch is the global one.

    Subclasses define `_add_own_weights`, `_initialized_weights` and `_initial`.
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self._add_own_weights(input_shape[-1])
        self.initialized = self.add_weight(
            name="initialized",
            shape=(),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    @abc.abstractmethod
    def _add_own_weights(self, channels: int) -> None:
        """Makes the weights, for so many channels."""

    @abc.abstractmethod
    def _initialized_weights(self) -> Sequence[keras.Variable]:
        """Returns the weights that are set from data."""

    @abc.abstractmethod
    def _initial(self, x: tf.Tensor) -> Sequence[tf.Tensor]:
        """Returns their values for a batch."""

    @property
    def needs_data(self) -> bool:
        return float(tf.convert_to_tensor(self.initialized)) == 0.0

    def initialize(self, x: Any, context: Any = None) -> tf.Tensor:
        x = self._prepared(x)
        self._given(context, x)
        for weight, value in zip(self._initialized_weights(), self._initial(x), strict=True):
            weight.assign(value)
        self.initialized.assign(1.0)
        return self.forward(x)

    def call(self, x: Any, training: bool | None = None, context: Any = None) -> tf.Tensor:
        x = self._prepared(x)
        self._given(context, x)
        if training:
            fresh = tf.convert_to_tensor(self.initialized) == 0
            for weight, value in zip(self._initialized_weights(), self._initial(x), strict=True):
                weight.assign(tf.where(fresh, value, tf.convert_to_tensor(weight)))
            self.initialized.assign(1.0)
        return self.forward(x)

    def compute_input_shape(self, output_shape: Any) -> tuple[int | None, ...]:
        return tuple(output_shape)
