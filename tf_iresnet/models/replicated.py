"""What Keras 3 needs so that `fit`, `evaluate` and `predict` run on several replicas.

Stock Keras fails, or computes something else than one device would, in these places:

- Before `fit` it takes the mean over replicas of a batch, to learn its shapes, which fails where
  the replicas' parts differ in size and under a MultiWorkerMirroredStrategy.
- Under a MultiWorkerMirroredStrategy it averages what a step returns along an axis, which
  scalars do not have.
- Its optimizers clip gradients before they are summed over the replicas, so that the clipped
  gradient depends on the number of replicas; and they accumulate gradients in a `tf.cond` with a
  merge call inside, which TensorFlow refuses.

`tests/test_distribution.py` runs stock Keras on each, and fails once a newer Keras is right.
"""

from __future__ import annotations

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

    def apply_finite(gradients: Any, variables: Any, apply: Any) -> None:
        finite = all_finite(gradients)
        if optimizer.gradient_accumulation_steps:
            apply([tf.where(finite, g, tf.zeros_like(g)) for g in gradients], variables)
        else:
            only_if(finite, lambda: apply(gradients, variables))

    keras_private.update_locally(optimizer, apply_finite)


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

    def _logs(self) -> dict[str, Any]:
        """The metrics so far, as Keras' loops can average them."""
        logs = self.get_metrics_result()
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
