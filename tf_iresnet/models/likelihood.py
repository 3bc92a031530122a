"""Training by maximum likelihood."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.layers.context import check_context
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.normalizing_flow import NormalizingFlow
from tf_iresnet.models.training.events import Event
from tf_iresnet.models.training.inputs import Batch
from tf_iresnet.models.training.objective import Objective, UpdateMetrics
from tf_iresnet.models.training.weights import weighted_sum


class Likelihood(Objective):
    """-log2 p(x) / d, or -log2 p(x | c) / d, in bits/dim.

    Args:
      owner: whose it is, in messages.
      event: what one example is.
      density: p.
      context_size: features of the context; None for an unconditional density.
      eval_log_det: the estimator of evaluation; training uses the blocks' own.
      seed: of the noise in training and evaluation.
    """

    def __init__(
        self,
        owner: str,
        event: Event,
        density: NormalizingFlow,
        *,
        context_size: int | None,
        eval_log_det: LogDetEstimator,
        seed: int,
    ) -> None:
        super().__init__(owner, event, self._beside(context_size))
        self.context_size = context_size
        self.density = density
        self.eval_log_det = eval_log_det
        self.seed = seed
        self._bits = keras.metrics.Mean(name="bits_per_dim")

    def _beside(self, context_size: int | None) -> str | None:
        """Returns what a batch holds beside x, as `Reader` names it."""
        return None if context_size is None else "context"

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._bits]

    def step_seed(self, step: tf.Tensor | int, first: tf.Tensor) -> tf.Tensor:
        """Returns a step's seed: its key, and the global index of this replica's first example."""
        key = randomness.fold_in(randomness.as_seed(self.seed), step)[:2]
        return tf.concat([key, [first]], axis=0)

    def latents_and_bits(
        self, batch: Batch, step: tf.Tensor | int, first: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the latents [batch, d] and -log2 p(x) / d, [batch]."""
        seed = self.step_seed(step, first)
        seed = seed if training else randomness.own_keys(seed, batch.x)
        x = self.event.dequantize(batch.x, seed)
        given = batch.y if self.conditional else None
        context = check_context(self.reader.owner, given, self.context_size, x)
        estimator = None if training else self.eval_log_det
        z, log_prob = self.density.latents_and_log_prob(x, seed, estimator, training, context)
        return z, self.density.to_bits(log_prob)

    def loss(
        self, batch: Batch, step: tf.Tensor | int, first: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, UpdateMetrics]:
        _, bits = self.latents_and_bits(batch, step, first, training)

        def update_metrics(loss: keras.metrics.Metric) -> None:
            for metric in (loss, self._bits):
                metric.update_state(bits, sample_weight=batch.weights)

        return weighted_sum(bits, batch.weights), update_metrics
