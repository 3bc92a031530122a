"""One model of p(x) and p(y | x)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.models.arguments import checked_integer
from tf_iresnet.models.flow import IResNetFlow
from tf_iresnet.models.head import LatentHead
from tf_iresnet.models.supervised import summed_loss


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetHybrid(IResNetFlow):
    r"""p(x) and p(y \| x) on one stack of invertible residual blocks.

    The density is that of `IResNetFlow`; a head on the latents gives the logits of the classes.
    Training minimises the mean, in nats, of

        -ln p(y \| x) - w ln p(x) / d,

    where the first term is the loss that the model is compiled with. So w = 1 weighs a class and
    one dimension alike, and w = d makes it the likelihood of the pair (x, y). Everything that a
    flow offers is here too: `log_prob`, `bits_per_dim`, `sample`, `encode`, `decode`,
    `as_distribution`. Calling the model gives logits.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      classes: number of classes, at least 2.
      density_weight: w, positive.
      head_channels: features that the head makes of the latents of each scale.
      **kwargs: the other arguments of `IResNetFlow`, but ``context_size``.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Example:
    >>> model = IResNetHybrid((8, 8, 1), 10, levels=17, blocks=(1,), hidden=8)
    >>> x = np.full((2, 8, 8, 1), 3.5, "float32")
    >>> log_prob, logits = model.log_prob_and_logits(x, seed=0)
    >>> log_prob.shape, logits.shape
    (TensorShape([2]), TensorShape([2, 10]))

    Source: Residual Flows for Invertible Generative Modeling, section 5.4; Nalisnick et al. 2019,
    Hybrid Models with Deep and Invertible Features.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        density_weight: float = 1.0,
        head_channels: int = 64,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("context_size") is not None:
            raise ValueError(
                f"context_size={kwargs['context_size']!r} has no place in a hybrid, whose density "
                "is that of x alone; leave it out."
            )
        real = isinstance(density_weight, numbers.Real) and not isinstance(density_weight, bool)
        if not real or not 0.0 < density_weight < math.inf:
            raise ValueError(
                f"density_weight must be a positive number, got {density_weight!r}; for no density "
                "at all use IResNetClassifier."
            )
        # Before the base class, which ends by building: Keras wants its own constructor first.
        self.__dict__["classes"] = checked_integer("classes", classes, 2)
        self.__dict__["head_channels"] = checked_integer("head_channels", head_channels, 1)
        super().__init__(event_shape, **kwargs)
        self.density_weight = float(density_weight)
        self._cross_entropy_metric = keras.metrics.Mean(name="cross_entropy")

    def _finish_build(self) -> None:
        self.head = LatentHead(
            self.head_channels, self.classes, name="head", dtype=self.dtype_policy
        )
        self.head.build([(None, *shape) for shape in self._scales.latent_shapes])
        super()._finish_build()

    # --- both numbers ---

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]."""
        z = self.flow.forward(self._checked(x), training=bool(training))
        return self._logits(z, training)

    def log_prob_and_logits(self, x: Any, seed: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns ln p(x) and the logits of p(y | x) from one pass.

        Args:
          x: [batch, *event_shape], as in `log_prob`.
          seed: as in `log_prob`.

        Returns:
          Nats, [batch], an estimate by ``eval_log_det``; and [batch, classes].

        Raises:
          ValueError: in eager code, if x is no data for this model.
        """
        x = self._checked(x)
        return self._both(x, randomness.as_seed(seed), self.eval_log_det, False)

    def _both(self, x, seed, estimator, training):
        z, log_det = self.flow.forward_and_log_det(x, seed, estimator, training)
        log_prob = self.prior.log_prob(z) + tf.cast(log_det, z.dtype)
        return log_prob, self._logits(z, training)

    def _logits(self, z, training):
        return self.head(self._scales.split_latents(z), training=training)

    # --- Keras' loops ---

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return keras.Model.metrics.fget(self)

    def _forward_state(self) -> list[keras.Variable]:
        return self.head.non_trainable_variables

    def _loss(self, data: Any, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError(
                f"the hybrid {self.name} needs labels: give them beside x, as in fit(x, y), or a "
                "data set of pairs (x, y)."
            )
        step = tf.convert_to_tensor(self.steps_taken) if training else -1
        estimator = None if training else self.eval_log_det
        x = self._checked(x)
        log_prob, logits = self._both(x, self._step_seed(step, first), estimator, training)
        cross_entropy = summed_loss(self, x, y, logits, sample_weight, training)
        nats = tf.cast(self.density_weight / self.dims, log_prob.dtype) * log_prob
        total = tf.cast(cross_entropy, nats.dtype) - tf.reduce_sum(nats)
        count = tf.cast(tf.shape(logits)[0], total.dtype)

        def update_metrics() -> None:
            for metric, value in (
                (self._loss_tracker, total),
                (self._cross_entropy_metric, cross_entropy),
            ):
                metric.update_state(value / tf.maximum(count, 1), sample_weight=count)
            self._bits_metric.update_state(self.to_bits(log_prob))
            self.compute_metrics(x, y, logits, sample_weight=sample_weight)

        return total, update_metrics

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["context_size"]
        return {
            **config,
            "classes": self.classes,
            "density_weight": self.density_weight,
            "head_channels": self.head_channels,
        }
