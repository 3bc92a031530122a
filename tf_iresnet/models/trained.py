"""Training on the mean loss of the global batch, and evaluation by averaged weights."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.arguments import checked_real
from tf_iresnet.autograph import AsWritten
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.layers.rows import refuse_dictionary
from tf_iresnet.models.averaging import WeightAverage
from tf_iresnet.models.inputs import Batch, Reader, check_shape
from tf_iresnet.models.replicated import (
    ReplicatedModel,
    all_finite,
    only_if,
    update_in_replicas,
)
from tf_iresnet.models.skipping import StepWatch, is_refused
from tf_iresnet.models.weights import are_weights, as_row, global_weight
from tf_iresnet.models.written import WrittenModel


class TrainedModel(AsWritten, WrittenModel, ReplicatedModel, abc.ABC):
    """Base of what is trained here: a subclass says what a batch's losses are, and builds itself.

    Evaluation uses an exponential moving average of the weights, if there is one. A step whose
    loss or gradient is not finite is skipped: the logs of every training loop count such steps
    as ``skipped_steps``, and a metric is NaN where every step was skipped.

    Attributes:
      max_skipped_steps: so many skipped steps in a row end training with a `SkippedStepsError`;
        None for any number.
    """

    event_shape: tuple[int, ...]
    max_skipped_steps: int | None = 20
    train_function: Any
    test_function: Any

    def __init__(self, ema_momentum: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_policy(self)
        self.autocast = False
        if ema_momentum is not None:
            due = "must lie in (0, 1), or be None for no average"
            ema_momentum = checked_real("ema_momentum", ema_momentum, due, lambda v: 0 < v < 1)
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
        self.__dict__["_watch"] = StepWatch()
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the model is built when it is made."""

    # --- what a subclass may add ---

    @property
    def initialized(self) -> bool:
        """Whether every layer that starts from data has seen some."""
        return True

    @property
    def derived_state(self) -> list[Any]:
        """Variables that follow the weights, and are found anew from where they are."""
        return []

    # --- averaged weights ---

    def _shadowed(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a shadow and its variable."""
        if self.average is not None:
            yield from zip(self.average.shadows, self._averaged_variables(), strict=True)

    def use_averaged_weights(self) -> None:
        """Makes the moving average the weights, for good."""
        average = self.average
        if average is not None and int(tf.convert_to_tensor(average.count)) > 0:
            for shadow, variable in self._shadowed():
                variable.assign(shadow)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Evaluates with the moving average; the weights are as before afterwards."""
        state = [*self._averaged_variables(), *self.derived_state]
        saved = [tf.identity(tf.convert_to_tensor(variable)) for variable in state]
        try:
            self.use_averaged_weights()
            yield
        finally:
            for variable, value in zip(state, saved, strict=True):
                variable.assign(value)

    def _checked(self, x: Any) -> tf.Tensor:
        """Converts data; in eager code refuses what no model should be asked about."""
        x = self._event(x)
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(x))):
            raise ValueError("x holds NaN or infinite values; remove those examples.")
        return x

    def _checked_shape(self, name: str, x: Any, event: tuple[int | None, ...]) -> tf.Tensor:
        refuse_dictionary(name, x)
        x = tf.convert_to_tensor(x)
        check_shape(name, x.shape, event)
        return x if x.dtype == self.variable_dtype else tf.cast(x, self.variable_dtype)

    # --- Keras' loops ---

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does."""
        self._watch.begin()
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, with the averaged weights."""
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    # --- batches ---

    def _reader(self) -> Reader:
        """Takes batches apart."""
        return Reader(f"the model {self.name}")

    def inputs_of(self, data: Any) -> dict[str, Any]:
        """Returns what of a batch of `fit` the model reads, as keyword arguments.

        Raises:
          ValueError: if the batch has another structure; the message says how to change it.
        """
        return {"x": self._reader().read(data, complete=False).x}

    def _batch(self, data: Any) -> Batch:
        """Takes a batch apart for a step, and checks the shapes of its parts.

        Raises:
          ValueError: if the structure or a shape is another one.
        """
        x, y, weights = self._reader().read(data)
        x = self._event(x)
        return Batch(x, y, None if weights is None else as_row(weights, self.variable_dtype))

    def _event(self, x: Any) -> tf.Tensor:
        """Converts x, and checks its shape."""
        return self._checked_shape("x", x, self.event_shape)

    def _found(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Which findings of `skipping.FINDINGS` hold for this replica's part of a batch."""
        found = {}
        beside = [] if self._reader().beside != "context" else [tf.convert_to_tensor(batch.y)]
        floats = [part for part in (batch.x, *beside) if part.dtype.is_floating]
        if floats:
            found["data"] = ~all_finite(floats)
        if batch.weights is not None:
            found["weights"] = ~are_weights(batch.weights)
        if batch.y is not None and self._reader().beside is None:
            found["placeholder"] = tf.reduce_any(tf.convert_to_tensor(batch.y) != 0)
        return found

    @abc.abstractmethod
    def _loss(self, batch: Batch, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        """Computes the sum of a batch's losses, each times the weight of its example.

        Args:
          batch: what `_batch` makes of this replica's part.
          first: the global index of the first example, an int32 scalar.
          training: whether this is a training step.

        Returns:
          The sum over this replica's examples, and a function that adds to the metrics.
        """

    def _forward_state(self) -> list[keras.Variable]:
        """Variables that the forward pass of a training step assigns."""
        return []

    # --- steps ---

    @property
    def step_counters(self) -> tf.Variable:
        """How many training steps were skipped, in all and in a row, int64 [2]."""
        return self._watch.counters

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes one step on the mean loss of the global batch, if that is finite.

        The mean is sum_i w_i l_i / sum_i w_i, over all replicas, with the weights w of the
        examples, one for each where none are given. A step with a loss or a gradient that is not
        finite changes neither weights nor averages nor the optimizer's moments.
        """
        batch = self._batch(data)
        if not self.optimizer.built:  # what is not built yet scales losses by a constant
            self.optimizer.build(self.trainable_variables)
        count, first = tf.unstack(replicas.count_and_first(tf.shape(batch.x)[0]))
        total = global_weight(batch.weights, count, self.variable_dtype)
        kept = [tf.identity(tf.convert_to_tensor(v)) for v in self._forward_state()]
        weights = [variable.value for variable in self.trainable_variables]
        with tf.GradientTape() as tape:
            loss, update_metrics = self._loss(batch, first, training=True)
            # Summed over the replicas, this makes the mean over the global batch.
            loss /= tf.cast(total, loss.dtype)
            scaled = self.optimizer.scale_loss(loss)  # `apply_gradients` divides by it again
        gradients = tape.gradient(scaled, weights)
        found = self._found(batch)
        local = [tf.cast(value, loss.dtype) for value in found.values()]
        *gradients, loss, flags = replicas.summed([*gradients, loss, tf.stack(local)])
        found = dict(zip(found, tf.unstack(flags > 0), strict=True))
        if "wide" in found:
            found["scaled"] |= self._watch.note_width(found.pop("wide"), count)
        finite = all_finite([*gradients, loss]) & ~is_refused(found)
        nothing = tf.constant(float("nan"))
        gradients = [tf.where(finite, g, tf.cast(nothing, g.dtype)) for g in gradients]
        update_in_replicas(self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        only_if(finite, lambda: self._after_step(update_metrics))
        for variable, value in zip(self._forward_state(), kept, strict=True):
            variable.assign(tf.where(finite, tf.convert_to_tensor(variable), value))
        found["weightless"] = total == 0
        found["loss"] = ~tf.math.is_finite(loss)
        self._watch.note_step(~finite, {**found, "gradient": ~finite})
        self._look()
        skipped = tf.cast(self._watch.since_reset[0], loss.dtype)
        return self._logs(skipped_steps=skipped)

    def test_step(self, data: Any) -> dict[str, Any]:
        batch = self._batch(data)
        count, first = tf.unstack(replicas.count_and_first(tf.shape(batch.x)[0]))
        # The examples counted so far are this batch's place in the evaluation.
        place = first + tf.cast(self._watch.since_reset[1], tf.int32)
        _, update_metrics = self._loss(batch, place, training=False)
        found = self._found(batch)
        flags = replicas.summed(tf.stack([tf.cast(f, tf.float32) for f in found.values()]))
        self._watch.note_evaluation(count, dict(zip(found, tf.unstack(flags > 0), strict=True)))
        update_metrics()
        self._look()
        return self._logs()

    def _look(self) -> None:
        """Raises what steps have found; in a graph nothing, its caller does."""
        if tf.executing_eagerly():
            self._watch.look(self.max_skipped_steps)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes what Keras' loops call for a training step, and looks after each call."""
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._looking(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Makes what Keras' loops call for an evaluation step, and looks after each call."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._looking(self.test_function)
        return self.test_function

    def _looking(self, function: Any) -> Any:
        def call(iterator: Any) -> Any:
            logs = function(iterator)
            self._look()
            return logs

        return call

    def reset_metrics(self) -> None:
        """Starts to measure anew, as Keras does at the start of an epoch."""
        super().reset_metrics()
        self._watch.reset()

    def _after_step(self, update_metrics: Any) -> None:
        update_metrics()
        if self.average is not None:
            self.average.update(self._averaged_variables())

    def _base_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {key: config[key] for key in ("name", "dtype", "trainable") if key in config}
