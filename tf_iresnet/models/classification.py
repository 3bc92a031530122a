"""How classifiers are trained: with the loss that they are compiled with."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.models.trained import TrainedModel


class Classification(TrainedModel):
    """A model whose call gives logits, trained with a compiled loss of these."""

    def _loss(self, data: Any, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        logits = self(x, training=training)
        mean = self.compute_loss(x, y, logits, sample_weight, training=training)
        # Keras divides a replica's mean by the number of replicas.
        mean = tf.cast(mean, self.variable_dtype)
        mean *= tf.distribute.get_strategy().num_replicas_in_sync
        count = tf.cast(tf.shape(logits)[0], mean.dtype)
        total = tf.where(count > 0, mean * count, 0)  # the mean of no examples is no number

        def update_metrics() -> None:
            self.loss_metric.update_state(total / tf.maximum(count, 1), sample_weight=count)
            self.compute_metrics(x, y, logits, sample_weight=sample_weight)

        return total, update_metrics
