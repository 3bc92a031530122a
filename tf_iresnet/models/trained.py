"""Training on the mean loss of the global batch, and evaluation by averaged weights."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.autograph import AsWritten
from tf_iresnet.models.averaging import WeightAverage
from tf_iresnet.models.distribution import (
    DistributedModel,
    all_finite,
    only_if,
    update_in_replicas,
)


class TrainedModel(AsWritten, DistributedModel, abc.ABC):
    """Base of what is trained here: a subclass says what a batch's losses are, and builds itself.

    Evaluation uses an exponential moving average of the weights, if there is one.
    """

    event_shape: tuple[int, ...]

    def __init__(self, ema_momentum: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False
        self.ema_momentum = ema_momentum
        self.average: WeightAverage | None = None
        if ema_momentum is not None:
            self.average = WeightAverage(ema_momentum, name="average")

    def _finish_build(self) -> None:
        """Makes the average, once every weight exists."""
        # All that training may ever move: a model may be made, or later be, partly frozen. In a
        # closure, since Keras would take a list on the model for weights of its own.
        averaged = [variable for variable in self.variables if variable.trainable]
        self.__dict__["_averaged_variables"] = lambda: averaged
        if self.average is not None:
            self.average.build_for(averaged)
        # No weights: they tell what happens in training, and belong to its checkpoints.
        self.__dict__["step_counters"] = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
        self.__dict__["stop_votes"] = tf.Variable([0.0, 0.0], trainable=False)
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the model is built when it is made."""

    # --- what a subclass may add ---

    @property
    def initialized(self) -> bool:
        """Whether every layer that starts from data has seen some."""
        return True

    def _before_step(self) -> None:
        """Runs at the start of each training step."""

    def _weights_changed(self) -> None:
        """Brings what is derived from the weights up to date."""

    def _derived_state(self) -> list[keras.Variable]:
        """Variables that `_weights_changed` assigns."""
        return []

    # --- averaged weights ---

    def _shadowed(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a shadow and its variable."""
        if self.average is not None:
            yield from zip(self.average.shadows, self._averaged_variables(), strict=True)

    def use_averaged_weights(self) -> None:
        """Makes the moving average the weights, for good, and prepares them for use."""
        average = self.average
        if average is not None and int(tf.convert_to_tensor(average.count)) > 0:
            for shadow, variable in self._shadowed():
                variable.assign(shadow)
        self._weights_changed()

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Evaluates with the moving average; the weights are as before afterwards."""
        state = [*self._averaged_variables(), *self._derived_state()]
        saved = [tf.identity(tf.convert_to_tensor(variable)) for variable in state]
        try:
            self.use_averaged_weights()
            yield
        finally:
            for variable, value in zip(state, saved, strict=True):
                variable.assign(value)

    def _checked(self, x: Any) -> tf.Tensor:
        """Converts data; in eager code refuses what no model should be asked about."""
        x = self._checked_shape("x", x, self.event_shape)
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(x))):
            raise ValueError("x holds NaN or infinite values; remove those examples.")
        return x

    def _checked_shape(self, name: str, x: Any, event: tuple[int | None, ...]) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype != self.variable_dtype:
            x = tf.cast(x, self.variable_dtype)
        if x.shape.rank != len(event) + 1 or tuple(x.shape[1:]) != tuple(event):
            sizes = ", ".join(map(str, event))
            raise ValueError(f"{name} must have the shape [batch, {sizes}], got {x.shape}.")
        return x

    # --- Keras' loops ---

    def vote_to_stop(self) -> None:
        """Makes `stop_is_agreed` true on every worker after the same step."""
        self.stop_votes.assign([1.0, 0.0])

    @property
    def stop_is_agreed(self) -> bool:
        """Whether any worker had voted to stop before the last training step."""
        return bool(tf.convert_to_tensor(self.stop_votes)[1] > 0)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does; what derives from the weights is current at the end."""
        history = super().fit(*args, **kwargs)
        self._weights_changed()
        return history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, with the averaged weights."""
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def inputs_of(self, data: Any) -> dict[str, Any]:
        """Returns what of a batch of `fit` the model reads, as keyword arguments."""
        return {"x": data[0] if isinstance(data, (tuple, list)) else data}

    @abc.abstractmethod
    def _loss(self, data: Any, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        """Computes the sum of a batch's losses.

        Args:
          data: what the loop passes to a step.
          first: the global index of the first example, an int32 scalar.
          training: whether this is a training step.

        Returns:
          The sum over this replica's examples, and a function that adds to the metrics.
        """

    def _forward_state(self) -> list[keras.Variable]:
        """Variables that the forward pass of a training step assigns."""
        return []

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes one step on the mean loss of the global batch, if that is finite.

        A step with a loss or a gradient that is not finite changes neither weights nor averages
        nor the optimizer's moments. ``step_counters`` holds how many were skipped, in all and in
        a row.
        """
        self._before_step()
        if not self.optimizer.built:  # what is not built yet scales losses by a constant
            self.optimizer.build(self.trainable_variables)
        total, first = tf.unstack(replicas.count_and_first(_batch_size(data)))
        kept = [tf.identity(tf.convert_to_tensor(v)) for v in self._forward_state()]
        weights = [variable.value for variable in self.trainable_variables]
        with tf.GradientTape() as tape:
            loss, update_metrics = self._loss(data, first, training=True)
            # Summed over the replicas, this makes the mean over the global batch.
            loss /= tf.cast(total, loss.dtype)
            scaled = self.optimizer.scale_loss(loss)  # `apply_gradients` divides by it again
        gradients = tape.gradient(scaled, weights)
        mine = tf.cast(tf.convert_to_tensor(self.stop_votes)[0], loss.dtype)
        *gradients, loss, votes = replicas.summed([*gradients, loss, mine])
        self.stop_votes.assign(tf.cast(tf.stack([mine, votes]), tf.float32))
        finite = all_finite([*gradients, loss])
        nothing = tf.constant(float("nan"))
        gradients = [tf.where(finite, g, tf.cast(nothing, g.dtype)) for g in gradients]
        update_in_replicas(self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        only_if(finite, lambda: self._after_step(update_metrics))
        for variable, value in zip(self._forward_state(), kept, strict=True):
            variable.assign(tf.where(finite, tf.convert_to_tensor(variable), value))
        skipped = self.step_counters + 1
        self.step_counters.assign(tf.where(finite, self.step_counters * [1, 0], skipped))
        return self._logs()

    def test_step(self, data: Any) -> dict[str, Any]:
        # The examples counted so far are this batch's place in the evaluation.
        before = tf.cast(tf.convert_to_tensor(self._loss_tracker.count), tf.int32)
        _, first = tf.unstack(replicas.count_and_first(_batch_size(data)))
        _, update_metrics = self._loss(data, first + replicas.summed(before), training=False)
        update_metrics()
        return self._logs()

    def _after_step(self, update_metrics: Any) -> None:
        update_metrics()
        if self.average is not None:
            self.average.update(self._averaged_variables())

    def _base_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {key: config[key] for key in ("name", "dtype", "trainable") if key in config}


def _batch_size(data: Any) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(data)[0])[0]
