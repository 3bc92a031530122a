"""Layers that take weights from data."""

from __future__ import annotations

import abc
import weakref
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.layers.adaptation import is_learning
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.typing import ArrayLike, DTypeLike, Shape, StaticShape


class DataInitialized(InvertibleLayer):
    """A layer that takes some of its weights from data, and keeps or trains them from then on.

    `adapt` sets them from many rows. Without it the first batch of training sets them: in `call` or
    `forward_and_log_det` with ``training=True``, or where a gradient tape records the weights of a
    density. Over several replicas it is the global batch. A batch with values that are not finite,
    or without examples, changes nothing. Training leaves weights alone that were set by hand, and
    so it does with a frozen layer (``trainable=False``). The flag ``initialized`` is a weight, so
    that a restored layer does not adapt again.

    Subclasses define `_add_own_weights`, `_starting_weights`, `_values`, `_map` and
    `_map_and_log_det`.
    """

    takes_from_data = True

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._add_own_weights(input_shape[-1])
        self.initialized = self.add_weight(
            name="initialized", shape=(), initializer="zeros", trainable=False, autocast=False
        )

    @abc.abstractmethod
    def _add_own_weights(self, channels: int) -> None:
        """Makes the weights, for so many channels."""

    @abc.abstractmethod
    def _starting_weights(self) -> Sequence[tuple[keras.Variable, ArrayLike]]:
        """Returns the weights that come from data, each with its initial value."""

    @abc.abstractmethod
    def _values(self, parts: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns their values for rows in groups, which are parts of the global batch."""

    @abc.abstractmethod
    def _map(self, x: tf.Tensor) -> tf.Tensor:
        """Returns y."""

    @abc.abstractmethod
    def _map_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and the log-determinant, [batch]."""

    def _warn_if_few(self, count: int) -> None:
        """Warns if ``count`` values of each channel are too few."""

    # --- whether it is to be set ---

    def weights_from_data(self) -> list[keras.Variable]:
        """Returns the weights that `adapt` sets, the flag among them."""
        return [*(weight for weight, _ in self._starting_weights()), self.initialized]

    @property
    def needs_data(self) -> bool:
        return self.trainable and (not self.built or bool(self._is_untouched()))

    def _is_untouched(self) -> tf.Tensor:
        """Says whether the weights have their initial values, and no data were seen."""
        same = [
            tf.reduce_all(tf.convert_to_tensor(weight) == tf.cast(start, weight.dtype))
            for weight, start in self._starting_weights()
        ]
        return tf.reduce_all([tf.convert_to_tensor(self.initialized) == 0, *same])

    def is_due_when_traced(self) -> bool:
        """Says whether `needs_data` holds, or may hold when the graph that is being traced runs.

        A graph that is traced after the weights are set has no operations to set them.
        """
        with tf.init_scope():
            # A variable made inside a `tf.function` has no value before the function runs.
            if not tf.executing_eagerly() or not bool(self.initialized.value.is_initialized()):
                return True
            return self.needs_data

    # --- setting it ---

    def _adapt(self, parts, contexts, due):
        if self in due:
            due.remove(self)
            self._warn_if_few(sum(_values_of_a_channel(x.shape) for x in parts))
            values = self._values(parts)
            if not all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in values):
                raise ValueError(
                    f"the statistics that {self.name} takes from these rows are not finite: values "
                    "are too large, or a layer before it makes them so; nothing was changed."
                )
            for (weight, _), value in zip(self._starting_weights(), values, strict=True):
                weight.assign(value)
            self.initialized.assign(1.0)
        return [self._map(x) for x in parts]

    def _learn_from(self, x: tf.Tensor) -> None:
        """Sets the weights from a batch of training, unless they are set."""
        # The weights of a stateless call cannot be assigned.
        if not self.trainable or not hasattr(self.initialized.value, "assign"):
            return
        if not self.is_due_when_traced():
            return
        x = tf.stop_gradient(x)
        if replicas.replica_context() is not None:
            self._set_if_good(x)  # replicas cannot communicate inside a tf.cond
        elif tf.executing_eagerly():
            self._warn_of(x)
            self._set_if_good(x)
        elif self._newly_in_graph():
            self._warn_of(x)

            def learn() -> tf.Tensor:
                self._set_if_good(x)
                return tf.constant(0)

            tf.cond(self._is_untouched(), learn, lambda: tf.constant(0))

    def _newly_in_graph(self) -> bool:
        """Says whether the graph that is being traced has no batch for this layer so far."""
        graph, known = tf.compat.v1.get_default_graph(), self.__dict__.get("_graph")
        if known is not None and known() is graph:
            return False
        self.__dict__["_graph"] = weakref.ref(graph)
        return True

    def _warn_of(self, x: tf.Tensor) -> None:
        if x.shape.is_fully_defined() and x.shape[0]:
            self._warn_if_few(_values_of_a_channel(x.shape))

    def _set_if_good(self, x: tf.Tensor) -> None:
        values = self._values([x])
        bad = [tf.reduce_any(~tf.math.is_finite(part)) for part in (x, *values)]
        bad_anywhere = replicas.all_reduce_sum(tf.cast(tf.reduce_any(bad), tf.float32)) > 0
        good = self._is_untouched() & ~bad_anywhere
        new = [*values, tf.ones([], self.initialized.dtype)]
        for weight, value in zip(self.weights_from_data(), new, strict=True):
            old = tf.convert_to_tensor(weight)
            weight.value.assign(tf.where(good, tf.cast(value, old.dtype), old))

    # --- the map ---

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training or is_learning():
            self._learn_from(x)
        return self._map(x)

    def _log_det(self, x, seed, log_det, training):
        if training or is_learning():
            self._learn_from(x)
        return self._map_and_log_det(x)

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        return tuple(output_shape)


def constant_channels(mean: tf.Tensor, variance: tf.Tensor, dtype: DTypeLike) -> tf.Tensor:
    """Says which channels are constant, up to the rounding of a dtype.

    Args:
      mean: of each channel, [channels].
      variance: of each channel, [channels].
      dtype: of the data.

    Returns:
      A bool for each channel.
    """
    info = np.finfo(tf.as_dtype(dtype).as_numpy_dtype)
    # The inverse of a deviation must be finite as well.
    least = tf.maximum(8 * float(info.eps) * tf.abs(mean), 1e4 * float(info.tiny))
    return tf.sqrt(variance) <= least


def _values_of_a_channel(shape: tf.TensorShape) -> int:
    return shape[:-1].num_elements()
