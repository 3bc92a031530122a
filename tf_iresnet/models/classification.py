"""How classifiers are trained: with the loss that they are compiled with."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.models.inputs import Batch, Reader
from tf_iresnet.models.loops import CheckedLoops
from tf_iresnet.models.trained import TrainedModel

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Classification(CheckedLoops, TrainedModel):
    """A model whose call gives logits, trained with a compiled loss of these.

    Weights of examples or of classes make the loss sum_i w_i l_i / sum_i w_i, where stock Keras
    divides by the number of examples. As in stock Keras, ``weighted_metrics`` are weighted and
    ``metrics`` are not.
    """

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Raises:
          ValueError: if the loss adds up where the mean over examples is meant.
        """
        for part in tf.nest.flatten(loss):
            reduction = getattr(part, "reduction", "mean")
            if isinstance(part, keras.losses.Loss) and reduction not in _MEANS:
                raise ValueError(
                    f"loss has reduction={reduction!r}, but a step takes the mean over the "
                    'examples of all devices; leave reduction at "sum_over_batch_size".'
                )
        super().compile(optimizer, loss, *args, **kwargs)

    def _reader(self) -> Reader:
        return Reader(f"the classifier {self.name}", "labels")

    def _logits(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The logits of data that may hold NaN, which makes the logits NaN."""
        return self(x, training=training)

    def predict_step(self, data: Any) -> Any:
        return self(**self.inputs_of(data), training=False)

    def _loss(self, batch: Batch, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        x, y, weights = batch
        logits = self._logits(x, training)
        count = tf.shape(logits)[0]
        own = tf.cast(count, x.dtype) if weights is None else tf.reduce_sum(weights)
        # Keras adds the weighted losses up, and divides by the number of examples.
        scaled = None
        if weights is not None:
            scaled = weights * tf.math.divide_no_nan(tf.cast(count, x.dtype), own)
        mean = self.compute_loss(x, y, logits, scaled, training=training)
        # Keras divides a replica's mean by the number of replicas.
        mean = tf.cast(mean, self.variable_dtype)
        mean *= tf.distribute.get_strategy().num_replicas_in_sync
        own = tf.cast(own, mean.dtype)
        # The mean of no examples, or of examples without weight, is no number.
        total = tf.where(own > 0, mean * own, 0)

        def update_metrics() -> None:
            mean = tf.math.divide_no_nan(total, own)
            self.loss_metric.update_state(mean, sample_weight=own)
            self.compute_metrics(x, y, logits, sample_weight=weights)

        return total, update_metrics
