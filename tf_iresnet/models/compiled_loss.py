"""Training of logits by a loss and metrics that a model is compiled with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tf_iresnet.models.training.events import Event
from tf_iresnet.models.training.inputs import Batch
from tf_iresnet.models.training.objective import Objective, UpdateMetrics

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class CompiledLoss(Objective):
    """The loss of a model's logits that `keras.Model.compile` was given.

    Weights of examples or of classes make the loss sum_i w_i l_i / sum_i w_i, where stock Keras
    divides by the number of examples. As in stock Keras, ``weighted_metrics`` are weighted and
    ``metrics`` are not.

    Args:
      owner: whose it is, in messages.
      event: what one example is.
      model: whose `compute_loss` and `compute_metrics` are used.
      logits: a function of (x, training) that returns the logits [batch, classes].
      state: variables that it assigns in training.
    """

    def __init__(
        self,
        owner: str,
        event: Event,
        model: keras.Model,
        logits: Callable[[tf.Tensor, bool], tf.Tensor],
        state: Sequence[keras.Variable],
    ) -> None:
        super().__init__(owner, event, "labels")
        self._model, self._logits, self._state = model, logits, list(state)

    def loss(
        self, batch: Batch, step: tf.Tensor | int, first: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, UpdateMetrics]:
        x, y, weights = batch
        logits = self._logits(x, training)
        count = tf.shape(logits)[0]
        own = tf.cast(count, x.dtype) if weights is None else tf.reduce_sum(weights)
        # Keras adds the weighted losses up, and divides by the number of examples.
        scaled = None
        if weights is not None:
            scaled = weights * tf.math.divide_no_nan(tf.cast(count, x.dtype), own)
        mean = self._model.compute_loss(x, y, logits, scaled, training=training)
        # Keras divides a replica's mean by the number of replicas.
        mean = tf.cast(mean, self.event.dtype)
        mean *= tf.distribute.get_strategy().num_replicas_in_sync
        own = tf.cast(own, mean.dtype)
        # The mean of no examples, or of examples without weight, is no number.
        total = tf.where(own > 0, mean * own, 0)

        def update_metrics(loss: keras.metrics.Metric) -> None:
            loss.update_state(tf.math.divide_no_nan(total, own), sample_weight=own)
            self._model.compute_metrics(x, y, logits, sample_weight=weights)

        return total, update_metrics

    @property
    def forward_state(self) -> list[keras.Variable]:
        return self._state

    def check_compiled(self, options: Mapping[str, object]) -> None:
        """Refuses a loss that adds up where the mean over examples is meant.

        Raises:
          ValueError: if there is one.
        """
        for part in tf.nest.flatten(options["loss"]):
            reduction = getattr(part, "reduction", "mean")
            if isinstance(part, keras.losses.Loss) and reduction not in _MEANS:
                raise ValueError(
                    f"loss has reduction={reduction!r}, but a step takes the mean over the "
                    'examples of all devices; leave reduction at "sum_over_batch_size".'
                )
