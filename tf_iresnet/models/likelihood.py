"""Density models that are trained by maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import (
    checked_alpha,
    checked_choice,
    checked_flag,
    checked_integer,
    checked_integers,
)
from tf_iresnet.layers.context import checked_context_size
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.models.density import DensityModel
from tf_iresnet.models.gaussianization import MarginalGaussianization
from tf_iresnet.models.inputs import Batch, Reader
from tf_iresnet.models.loops import CheckedLoops
from tf_iresnet.models.pixels import check_pixels, pixels_found
from tf_iresnet.models.preprocessing import ImagePreprocessing
from tf_iresnet.models.prior import DiagonalNormal
from tf_iresnet.models.weights import weighted_sum


class LikelihoodModel(CheckedLoops, DensityModel):
    """A density of scales of invertible layers, between preprocessing and prior.

    A subclass sets its own arguments and ``eval_log_det``, then calls `_build_flow` with its
    scales. Training minimises the mean of -log2 p(x) / d, weighted where examples have weights.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      levels: how many values a pixel takes; None for data that is not quantised.
      preprocessing: "logit", "shift", "marginal" or None; "auto" for "logit" where there are
        levels.
      alpha: how far "logit" and "marginal" keep from the ends of the range.
      factor_out: whether half of the channels leave after each scale but the last.
      prior: "learned" for a diagonal normal with trained mean and scale, "standard" for a
        fixed one.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      context_size: features of the context; None for an unconditional density.
      seed: of the noise in training and evaluation.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        levels: int | None,
        preprocessing: str | None,
        alpha: float,
        factor_out: bool,
        prior: str,
        ema_momentum: float | None,
        context_size: int | None,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        if isinstance(preprocessing, str) and preprocessing == "auto":
            preprocessing = None if levels is None else "logit"
        checked_choice("preprocessing", preprocessing, ("logit", "shift", "marginal", None))
        if preprocessing is not None and levels is None:
            raise ValueError(
                f"preprocessing={preprocessing!r} needs the number of levels, got levels=None; "
                "give it, or pass preprocessing=None."
            )
        self.event_shape = checked_integers("event_shape", event_shape, "axis of one example")
        if len(self.event_shape) > 4:
            raise ValueError(
                "event_shape must be (d,), or one to three spatial sizes and the channels, got "
                f"{event_shape!r}."
            )
        self.levels = None if levels is None else checked_integer("levels", levels, 2)
        self.preprocessing = preprocessing
        self.alpha = checked_alpha(alpha)
        self.factor_out = checked_flag("factor_out", factor_out)
        self.prior_kind = checked_choice("prior", prior, ("learned", "standard"))
        self.context_size = checked_context_size(context_size)
        self.seed = checked_integer("seed", seed)

    def _build_flow(self, scales: Sequence[InvertibleLayer]) -> None:
        """Builds preprocessing, scales and prior."""
        policy, shape = self.dtype_policy, (None, *self.event_shape)
        self._scales = MultiScale(scales, self.factor_out, dtype=policy, name="scales")
        layers = [*self._preprocessing_layers(), self._scales]
        self.flow = InvertibleSequential(layers, name="flow", dtype=policy)
        learned = self.prior_kind == "learned"
        self.prior = DiagonalNormal(
            learned, self.context_size if learned else None, name="prior", dtype=policy
        )
        self.flow.build(shape)
        self.prior.build(self.flow.compute_output_shape(shape))
        self._bits_metric = keras.metrics.Mean(name="bits_per_dim")
        self._finish_build()

    def _preprocessing_layers(self) -> list[InvertibleLayer]:
        kind, policy = self.preprocessing, self.dtype_policy
        if kind is None or self.levels is None:
            return []
        if kind == "marginal":
            return [MarginalGaussianization(self.levels, self.alpha, dtype=policy)]
        name = "preprocessing"
        return [ImagePreprocessing(self.levels, kind, self.alpha, dtype=policy, name=name)]

    # --- Keras' loops ---

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        loss = [self.loss_metric] if self.compiled else []
        return [*loss, self._bits_metric]

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does, with the model's own loss.

        Args:
          optimizer: as for `keras.Model.compile`.
          loss: None: the loss is that of the density.
          loss_weights: None.
          metrics: None: the metrics are the model's own, weighted as the loss is.
          weighted_metrics: None.
          **kwargs: as for `keras.Model.compile`.

        Raises:
          ValueError: if there is another loss or metric.
        """
        given = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        for name, value in given.items():
            if value is not None and value != []:
                raise ValueError(
                    f"{self._reader().owner} has its own loss and metrics, got {name}={value!r}; "
                    f"leave {name} out (evaluate() gives bits per dimension)."
                )
        super().compile(optimizer, **kwargs)

    def _reader(self) -> Reader:
        beside = None if self.context_size is None else "context"
        return Reader(f"the flow {self.name}", beside)

    def inputs_of(self, data: Any) -> dict[str, Any]:
        reader = self._reader()
        x, y, _ = reader.read(data, complete=reader.beside == "context")
        return {"x": x, "context": y} if reader.beside == "context" else {"x": x}

    def predict_step(self, data: Any) -> tf.Tensor:
        return self(**self.inputs_of(data))

    def _step_seed(self, step: Any, first: tf.Tensor) -> tf.Tensor:
        """The seed of a step: its key, and the global index of this replica's first example."""
        key = randomness.fold_in(randomness.as_seed(self.seed), step)[:2]
        return tf.concat([key, [first]], axis=0)

    def _check_examples(self, batch: Batch, densities: bool = True) -> None:
        super()._check_examples(batch, densities)
        if self._pixel_levels is not None:
            check_pixels(np.asarray(batch.x), self._pixel_levels, densities)

    def _found(self, batch: Batch) -> dict[str, tf.Tensor]:
        found = super()._found(batch)
        if self._pixel_levels is not None:
            found |= pixels_found(batch.x, self._pixel_levels)
            if "scaled" in found:
                found["wide"] = tf.reduce_any(batch.x > 1)
        return found

    def _loss(self, batch: Batch, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        step = tf.convert_to_tensor(self.steps_taken) if training else -1
        estimator = None if training else self.eval_log_det
        context = None if self.context_size is None else batch.y
        seed = self._step_seed(step, first)
        seed = seed if training else randomness.own_keys(seed, batch.x)
        x = self._dequantised(batch.x, seed)
        conditions = self._given(context, x)
        bits = self.to_bits(self._log_prob(x, seed, estimator, training, **conditions))

        def update_metrics() -> None:
            for metric in self.metrics:
                metric.update_state(bits, sample_weight=batch.weights)

        return weighted_sum(bits, batch.weights), update_metrics

    def get_config(self) -> dict[str, Any]:
        return {
            **self._base_config(),
            "event_shape": self.event_shape,
            "levels": self.levels,
            "preprocessing": self.preprocessing,
            "alpha": self.alpha,
            "factor_out": self.factor_out,
            "prior": self.prior_kind,
            "ema_momentum": self.ema_momentum,
            "context_size": self.context_size,
            "seed": self.seed,
        }
