"""Training of a density and a classifier at once."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.models.head import LatentHead
from tf_iresnet.models.likelihood import Likelihood
from tf_iresnet.models.training.inputs import Batch
from tf_iresnet.models.training.objective import UpdateMetrics
from tf_iresnet.models.training.weights import weighted_sum
from tf_iresnet.typing import ArrayLike


class JointLikelihood(Likelihood):
    """-log2 p(x) / d - weight * sum_k q_k ln p(k | x), with smoothed labels q.

    Args:
      owner: whose it is, in messages.
      event: what one example is.
      density: p(x).
      scales: the layer whose latents the head sees.
      head: the logits of p(y | x).
      weight: of the cross-entropy in nats.
      smoothing: share of the labels that goes to all classes alike.
      **options: of `Likelihood`.
    """

    def __init__(
        self,
        *args: Any,
        scales: MultiScale,
        head: LatentHead,
        weight: float,
        smoothing: float,
        **options: Any,
    ) -> None:
        super().__init__(*args, context_size=None, **options)
        self._scales, self._head = scales, head
        self.weight, self.smoothing = weight, smoothing
        self._entropy = keras.metrics.Mean(name="cross_entropy")
        self._accuracy = keras.metrics.Mean(name="accuracy")

    def _beside(self, context_size: int | None) -> str | None:
        return "labels"

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._bits, self._entropy, self._accuracy]

    @property
    def forward_state(self) -> list[keras.Variable]:
        return self._head.non_trainable_variables

    def check_examples(self, batch: Batch, densities: bool = True) -> None:
        super().check_examples(batch, densities)
        if batch.y is not None:
            self.labels(batch.y)

    def labels(self, y: ArrayLike) -> tf.Tensor:
        """Returns labels as int32 [batch].

        Raises:
          ValueError: in eager code, if they are none of the classes; graphs raise TensorFlow's
            InvalidArgumentError.
        """
        classes = self._head.classes
        y = tf.convert_to_tensor(y)
        if y.shape.rank == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.shape.rank != 1:
            raise ValueError(
                f"y must hold integer labels, of the shape [batch] or [batch, 1], got {y.shape}."
            )
        labels = tf.cast(y, tf.int32)
        known = (labels >= 0) & (labels < classes) & (tf.cast(labels, y.dtype) == y)
        message = f"y must hold integers from 0 to {classes - 1}, the labels"
        if tf.executing_eagerly():
            wrong = tf.boolean_mask(y, ~known)
            if len(wrong):
                raise ValueError(f"{message}, got {wrong[0].numpy()!s}; number the classes so.")
            return labels
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [message, y])]):
            return tf.identity(labels)

    def logits(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the logits [batch, classes] of latents [batch, d]."""
        return self._head(self._scales.latents(z), training=training)

    def loss(
        self, batch: Batch, step: tf.Tensor | int, first: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, UpdateMetrics]:
        y = self.labels(batch.y)
        z, bits = self.latents_and_bits(batch, step, first, training)
        logits = self.logits(z, training)
        log_classes = tf.nn.log_softmax(logits)
        entropy = -tf.gather(log_classes, y, axis=1, batch_dims=1)
        even = tf.reduce_mean(log_classes, axis=1)
        smoothed = (1 - self.smoothing) * entropy - self.smoothing * even
        losses = bits + self.weight * smoothed
        correct = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == y, bits.dtype)
        correct = tf.where(tf.math.is_nan(entropy), entropy, correct)  # argmax would guess

        def update_metrics(loss: keras.metrics.Metric) -> None:
            values = (losses, bits, entropy, correct)
            for metric, value in zip((loss, *self.metrics), values, strict=True):
                metric.update_state(value, sample_weight=batch.weights)

        return weighted_sum(losses, batch.weights), update_metrics
