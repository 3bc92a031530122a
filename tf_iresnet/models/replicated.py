"""What Keras 3 needs so that `fit`, `evaluate` and `predict` run on several replicas.

Stock Keras fails, or computes something else than one device would, in these places:

- Before `fit` it takes the mean over replicas of a batch, to learn its shapes, which fails where
  the replicas' parts differ in size and under a MultiWorkerMirroredStrategy.
- Under a MultiWorkerMirroredStrategy it averages what a step returns along an axis, which
  scalars do not have.
- Its optimizers clip gradients before they are summed over the replicas, so that the clipped
  gradient depends on the number of replicas; and they accumulate gradients in a `tf.cond` with a
  merge call inside, which TensorFlow refuses. `LossScaleOptimizer` does the latter too, and sums
  the gradients over the replicas again.

`tests/test_distribution.py` runs stock Keras on each, and fails once a newer Keras is right.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import keras_private, replicas


def in_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Says whether a strategy spans several processes."""
    count = strategy.num_replicas_in_sync
    return count > 1 and count > len(strategy.extended.worker_devices)


def update_in_replicas(optimizer: Any) -> None:
    """Makes an optimizer apply gradients that are already summed over the replicas.

    Each replica then makes the same update of its own copy of the weights, as a single device
    does: clipping and accumulation see the gradient of the global batch. Gradients that are not
    finite change nothing, or, where gradients are accumulated, count as zero.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        keras_private.apply_by(optimizer, functools.partial(_apply_scaled, optimizer))
        update_in_replicas(optimizer.inner_optimizer)
        return

    def apply_finite(gradients: Any, variables: Any, apply: Any) -> None:
        finite = all_finite(gradients)
        if optimizer.gradient_accumulation_steps:
            apply([tf.where(finite, g, tf.zeros_like(g)) for g in gradients], variables)
        else:
            only_if(finite, lambda: apply(gradients, variables))

    keras_private.update_locally(optimizer, apply_finite)


def _apply_scaled(optimizer: Any, gradients: Any, variables: Any) -> None:
    """What `LossScaleOptimizer` does with gradients, without a branch around the optimizer inside.

    Gradients that overflowed reach that one, which skips and counts them as any others.
    """
    finite = all_finite(gradients)
    scale = tf.convert_to_tensor(optimizer.dynamic_scale)
    unscaled = [g / tf.cast(scale, g.dtype) for g in gradients]
    optimizer.inner_optimizer.apply(unscaled, variables)
    count = tf.convert_to_tensor(optimizer.step_counter)
    grows = finite & (count == optimizer.dynamic_growth_steps - 1)
    factor = tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5)
    optimizer.dynamic_scale.assign(factor * scale)
    optimizer.step_counter.assign(tf.where(finite & ~grows, count + 1, tf.zeros_like(count)))


def all_finite(tensors: Any) -> tf.Tensor:
    """Says whether every number in some tensors is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def only_if(condition: tf.Tensor, action: Any) -> None:
    """Runs an action, which assigns variables without merge calls, where a condition holds."""

    def run() -> tf.Tensor:
        action()
        return tf.constant(0)

    tf.cond(condition, run, lambda: tf.constant(0))


class ReplicatedModel(keras_private.BuiltModel):
    """A Keras model, built when it is made, whose loops run on several replicas.

    A subclass returns from `train_step` and `test_step` what `_logs` makes of its metrics, and
    applies gradients summed by `tf_iresnet.replicas.summed` after `update_in_replicas`.
    """

    @property
    def steps_taken(self) -> keras.Variable:
        """The number of training steps, of which several make one of accumulated gradients."""
        return keras_private.steps_of(self.optimizer)

    @property
    def loss_metric(self) -> keras.metrics.Metric:
        """The mean that the loops show as ``loss``; there once the model is compiled."""
        return keras_private.loss_metric(self)

    def get_metrics_result(self) -> dict[str, Any]:
        """The metrics so far, by name; NaN where they have seen nothing."""
        return self._results([tf.convert_to_tensor(v) for v in self.metrics_variables])

    def _results(self, values: list[tf.Tensor]) -> dict[str, Any]:
        """The metrics of the values of their variables."""
        results: dict[str, Any] = {}
        left, nothing = iter(values), tf.constant(False)
        for metric in self.metrics:
            if not getattr(metric, "built", True):  # no step has computed it
                continue
            own = [next(left) for _ in metric.variables]
            result = metric.stateless_result(own)
            results |= result if isinstance(result, dict) else {metric.name: result}
            if metric is self.loss_metric:  # a mean: its total and its count
                nothing = own[1] == 0
        nan = float("nan")
        return {k: tf.where(nothing, tf.cast(nan, v.dtype), v) for k, v in results.items()}

    def _logs(self, **more: tf.Tensor) -> dict[str, Any]:
        """The metrics of all replicas so far, as Keras' loops can average them.

        Args:
          **more: scalars to show beside them, the same on every replica.
        """
        values = [tf.convert_to_tensor(v) for v in self.metrics_variables]
        logs = {**self._results(replicas.summed(values)), **more}
        if in_several_workers(self.distribute_strategy):
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs


@keras.saving.register_keras_serializable("tf_iresnet")
class BatchNormalization(keras_private.NormalizationBy):
    """Keras' batch normalisation over the global batch.

    With Keras' own `synchronized=True` the variance is a difference of squares, which cancels.
    """

    def moments(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor] | None:
        if replicas.replica_context() is None:
            return None
        wide = tf.float64 if inputs.dtype == tf.float64 else tf.float32
        mean, variance = replicas.channel_moments(tf.cast(inputs, wide))
        return tf.cast(mean, inputs.dtype), tf.cast(variance, inputs.dtype)
