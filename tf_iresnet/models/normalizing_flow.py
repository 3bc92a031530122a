"""The density of a flow and a prior, by the change of variables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from tf_iresnet.layers.context import context_keyword
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.prior import DiagonalNormal


@dataclass(frozen=True)
class NormalizingFlow:
    r"""p(x) = prior(f(x)) \|det df/dx\|, of tensors that were checked.

    Args:
      flow: f, from data to latent.
      prior: of the latents [batch, d].
      dims: d.
    """

    flow: InvertibleLayer
    prior: DiagonalNormal
    dims: int

    def latents_and_log_prob(
        self,
        x: tf.Tensor,
        seed: tf.Tensor,
        estimator: LogDetEstimator | None,
        training: bool,
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f(x) [batch, d] and ln p(x) in nats, [batch].

        Args:
          x: [batch, ...].
          seed: see `tf_iresnet.randomness`.
          estimator: of ln|det|; None for the blocks' own.
          training: whether this is a training step.
          context: [batch, context_size], for a conditional density.
        """
        z, log_det = self.flow.evaluate_with_log_det(x, seed, estimator, training, context)
        log_prob = self.prior.log_prob(z, **context_keyword(self.prior, context))
        return z, log_prob + tf.cast(log_det, z.dtype)

    def to_bits(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Turns ln p(x) in nats into bits/dim."""
        return log_prob * (-1.0 / (math.log(2.0) * self.dims))

    def sample_latents(
        self,
        n: tf.Tensor | int,
        seed: tf.Tensor,
        temperature: tf.Tensor | float,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws latents, [n, d]."""
        return self.prior.sample(n, seed, temperature, **context_keyword(self.prior, context))
