"""The steps of training and evaluation, on the mean loss of the global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.models.training.objective import Objective, UpdateMetrics
from tf_iresnet.models.training.replicated import all_finite, only_if, update_in_replicas
from tf_iresnet.models.training.skipping import StepWatch, is_refused
from tf_iresnet.models.training.weights import global_weight
from tf_iresnet.typing import BatchLike, Logs

if TYPE_CHECKING:
    from tf_iresnet.models.training.model import Model

#: A function of Keras' loops: makes steps on batches of an iterator, and returns the last logs.
StepFunction: TypeAlias = Callable[[Iterator[BatchLike]], Logs]


class Loop:
    """Makes the steps of a model, on any number of replicas.

    A step whose loss or gradient is not finite is skipped: it changes neither weights nor averages
    nor the optimizer's moments, and is counted.

    Args:
      model: whose weights, optimizer and average a step changes.
      objective: what a step minimises.
    """

    def __init__(self, model: Model, objective: Objective) -> None:
        self._model = model
        self._objective = objective
        self.watch = StepWatch()

    def train_step(self, data: BatchLike) -> Logs:
        """Makes one step on sum_i w_i l_i / sum_i w_i, over all replicas, if that is finite.

        Args:
          data: this replica's part of a batch; its examples have the weights w, one for each where
            none are given.

        Returns:
          The logs: metrics and the number of skipped steps.
        """
        model, objective = self._model, self._objective
        first_average = model.prepare_averages()
        batch = objective.read(data)
        if not model.optimizer.built:  # before it is built, it scales losses by a constant
            model.optimizer.build(model.trainable_variables)
        count, first = tf.unstack(replicas.count_and_first(tf.shape(batch.x)[0]))
        total = global_weight(batch.weights, count, objective.event.dtype)
        kept = [tf.identity(tf.convert_to_tensor(v)) for v in objective.forward_state]
        weights = [variable.value for variable in model.trainable_variables]
        step = tf.convert_to_tensor(model.steps_taken)
        with tf.GradientTape() as tape:
            loss, update_metrics = objective.loss(batch, step, first, training=True)
            # Summed over the replicas, this makes the mean over the global batch.
            loss /= tf.cast(total, loss.dtype)
            scaled = model.optimizer.scale_loss(loss)  # `apply_gradients` divides by the scale
        gradients = tape.gradient(scaled, weights)
        found = objective.findings(batch)
        local = [tf.cast(value, loss.dtype) for value in found.values()]
        *gradients, loss, flags = replicas.all_reduce_sum([*gradients, loss, tf.stack(local)])
        found = dict(zip(found, tf.unstack(flags > 0), strict=True))
        if "wide" in found:
            found["scaled"] |= self.watch.note_width(found.pop("wide"), count)
        finite = all_finite([*gradients, loss]) & ~is_refused(found)
        nothing = tf.constant(float("nan"))
        gradients = [tf.where(finite, g, tf.cast(nothing, g.dtype)) for g in gradients]
        update_in_replicas(model.optimizer)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        only_if(finite, lambda: self._after_step(update_metrics, first_average))
        for variable, value in zip(objective.forward_state, kept, strict=True):
            variable.assign(tf.where(finite, tf.convert_to_tensor(variable), value))
        found["weightless"] = total == 0
        found["loss"] = ~tf.math.is_finite(loss)
        self.watch.note_step(~finite, {**found, "gradient": ~finite})
        self.raise_findings()
        skipped = tf.cast(self.watch.since_reset[0], loss.dtype)
        return model.logs(skipped_steps=skipped)

    def _after_step(self, update_metrics: UpdateMetrics, first_average: Callable[[], None]) -> None:
        first_average()
        update_metrics(self._model.loss_metric)
        self._model.update_average()

    def test_step(self, data: BatchLike) -> Logs:
        """Measures one batch; returns the logs."""
        objective = self._objective
        batch = objective.read(data)
        count, first = tf.unstack(replicas.count_and_first(tf.shape(batch.x)[0]))
        # The examples counted so far are this batch's place in the evaluation.
        place = first + tf.cast(self.watch.since_reset[1], tf.int32)
        _, update_metrics = objective.loss(batch, -1, place, training=False)
        found = objective.findings(batch)
        flags = replicas.all_reduce_sum(tf.stack([tf.cast(f, tf.float32) for f in found.values()]))
        self.watch.note_evaluation(count, dict(zip(found, tf.unstack(flags > 0), strict=True)))
        update_metrics(self._model.loss_metric)
        self.raise_findings()
        return self._model.logs()

    def raise_findings(self) -> None:
        """Raises an error for what steps have found, in eager code; graphs leave it to callers."""
        if tf.executing_eagerly():
            self.watch.raise_findings(self._model.max_skipped_steps)

    def raising_findings(self, function: StepFunction) -> StepFunction:
        """Returns a step function of Keras' loops that raises findings after each call."""

        def call(iterator: Iterator[BatchLike]) -> Logs:
            logs = function(iterator)
            self.raise_findings()
            return logs

        return call
