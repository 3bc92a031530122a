"""What Keras 3 needs so that `fit`, `evaluate` and `predict` run on several replicas.

Stock Keras fails, or computes something else than one device does, in these places:

- Before `fit` it takes the mean over replicas of a batch, to learn its shapes, which fails where
  the replicas' parts differ in size and under a MultiWorkerMirroredStrategy.
- Under a MultiWorkerMirroredStrategy it averages what a step returns along an axis, which
  scalars do not have.
- Its optimizers clip gradients before they are summed over the replicas, so that the clipped
  gradient depends on the number of replicas. They accumulate gradients in a `tf.cond` with a
  merge call inside, which TensorFlow refuses. `LossScaleOptimizer` does the latter as well, and
  sums the gradients over the replicas again.

`tests/training/workers/test_distribution.py` runs stock Keras on each, and fails once a newer
Keras is right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from tf_iresnet import keras_private, replicas
from tf_iresnet.keras_private import Gradients, Variables
from tf_iresnet.typing import Logs


def in_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Says whether a strategy spans several processes."""
    count = strategy.num_replicas_in_sync
    return count > 1 and count > len(strategy.extended.worker_devices)


def update_in_replicas(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer apply gradients that are already summed over the replicas.

    Each replica then makes the same update of its own copy of the weights, as a single device
    does: clipping and accumulation see the gradient of the global batch. Gradients that are not
    finite change nothing, or, where gradients are accumulated, count as zero.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        keras_private.apply_by(optimizer, functools.partial(_apply_scaled, optimizer))
        update_in_replicas(optimizer.inner_optimizer)
        return

    def apply_finite(
        gradients: Gradients, variables: Variables, apply: keras_private.Apply
    ) -> None:
        finite = all_finite(gradients)
        if optimizer.gradient_accumulation_steps:
            apply([tf.where(finite, g, tf.zeros_like(g)) for g in gradients], variables)
        else:
            only_if(finite, lambda: apply(gradients, variables))

    keras_private.update_locally(optimizer, apply_finite)


def _apply_scaled(
    optimizer: keras.optimizers.Optimizer, gradients: Gradients, variables: Variables
) -> None:
    """Does what `LossScaleOptimizer` does with gradients, without a branch around its inner one.

    Gradients that overflowed reach the inner optimizer, which skips and counts them as any others.
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


def all_finite(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    """Says whether every number in some tensors is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def only_if(condition: tf.Tensor, action: Callable[[], object]) -> None:
    """Runs an action, which assigns variables without merge calls, where a condition holds."""

    def run() -> tf.Tensor:
        action()
        return tf.constant(0)

    tf.cond(condition, run, lambda: tf.constant(0))


def results(
    metrics: Iterable[keras.metrics.Metric],
    loss: keras.metrics.Metric | None,
    values: Iterable[tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Returns metrics of the values of their variables, by name.

    Args:
      metrics: the metrics; those that no step has computed are left out.
      loss: the mean that is shown as ``loss``. If it has seen nothing, all are NaN.
      values: of the variables of all of them, in order.
    """
    found: Logs = {}
    left, nothing = iter(values), tf.constant(False)
    for metric in metrics:
        if not getattr(metric, "built", True):
            continue
        own = [next(left) for _ in metric.variables]
        result = metric.stateless_result(own)
        found |= result if isinstance(result, dict) else {metric.name: result}
        if metric is loss:  # a mean: its total and its count
            nothing = own[1] == 0
    nan = float("nan")
    return {k: tf.where(nothing, tf.cast(nan, v.dtype), v) for k, v in found.items()}


def as_logs(values: Logs, strategy: tf.distribute.Strategy) -> Logs:
    """Returns scalars, the same on every replica, as Keras' loops can average them."""
    if in_several_workers(strategy):
        return {name: tf.reshape(value, [1]) for name, value in values.items()}
    return values


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
