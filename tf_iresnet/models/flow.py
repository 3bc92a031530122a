"""Density models of invertible residual blocks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.fixed_point import Picard, Solver
from tf_iresnet.layers.actnorm import ActNorm
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.log_det import LogDetEstimator, RussianRoulette
from tf_iresnet.models.arguments import (
    checked_instance,
    checked_integer,
    checked_integers,
    checked_widths,
    widths_of_scales,
)
from tf_iresnet.models.gaussianization import MarginalGaussianization
from tf_iresnet.models.model import InvertibleModel
from tf_iresnet.models.preprocessing import ImagePreprocessing
from tf_iresnet.models.prior import DiagonalNormal


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetFlow(InvertibleModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a stack of invertible residual blocks.

    Images x are dequantised pixels on [0, levels): the density is one on that cube, all
    Jacobians of the preprocessing included, and bits/dim = -log2 p(x) / d. Each scale is a
    squeeze (images only) followed by ActNorm and a residual block in turn; the latent is one
    flat vector. The cheap direction is data to latent: `log_prob` is fast, `sample` iterates.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      levels: how many values a pixel takes; None for data that is not quantised.
      preprocessing: "logit", "shift" or "marginal" (a learned `MarginalGaussianization`) for
        images, None for data taken as it is; by default "logit" where there are levels.
      alpha: how far "logit" and "marginal" keep from the ends of the range.
      blocks: residual blocks of each scale.
      hidden: channels inside the branches, one number or one for each scale.
      kernel_sizes: of the branches' convolutions.
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint.
      activation: of the branches.
      factor_out: whether half of the channels leave after each scale but the last.
      actnorm: whether ActNorm comes before each block.
      prior: "learned" for a diagonal normal with trained mean and scale, "standard" for a
        fixed one.
      power_iterations: per training step.
      normalization: "power_iteration", or "bound" for blocks proven invertible at every step.
      log_det: estimator in training; by default `RussianRoulette(exact_terms=2)`.
      eval_log_det: estimator of `log_prob`; by default 20 exact terms and a roulette of finite
        variance.
      solver: of the inverse; by default `Picard()`.
      recompute: whether blocks keep their input alone for the backward pass: less memory, more
        time.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      seed: of the noise in training and evaluation.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Example:
    >>> flow = IResNetFlow((2,), levels=None, blocks=(2,), hidden=8)
    >>> flow.log_prob(np.zeros((3, 2), "float32"), seed=0).shape
    TensorShape([3])
    >>> flow.sample(5, seed=0).shape
    TensorShape([5, 2])

    Source: Invertible Residual Networks, section 5.3; Residual Flows, section 4.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        levels: int | None = 256,
        preprocessing: str | None = "auto",
        alpha: float = 1e-6,
        blocks: Sequence[int] = (8, 8),
        hidden: int | Sequence[int] = 96,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        coeff: float | None = 0.98,
        activation: str = "lipswish",
        factor_out: bool = False,
        actnorm: bool = True,
        prior: str = "learned",
        power_iterations: int = 1,
        normalization: str = "power_iteration",
        log_det: LogDetEstimator | None = None,
        eval_log_det: LogDetEstimator | None = None,
        solver: Solver | None = None,
        recompute: bool = False,
        ema_momentum: float | None = 0.999,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        if preprocessing == "auto":
            preprocessing = None if levels is None else "logit"
        if preprocessing not in ("logit", "shift", "marginal", None):
            raise ValueError(
                f'preprocessing must be "logit", "shift", "marginal" or None, got '
                f"{preprocessing!r}."
            )
        if preprocessing is not None and levels is None:
            raise ValueError(
                f"preprocessing={preprocessing!r} needs the number of levels, got levels=None; "
                "give it, or pass preprocessing=None."
            )
        if prior not in ("learned", "standard"):
            raise ValueError(f'prior must be "learned" or "standard", got {prior!r}.')
        self.event_shape = checked_integers("event_shape", event_shape, "axis of one example")
        if len(self.event_shape) > 4:
            raise ValueError(
                "event_shape must be (d,), or one to three spatial sizes and the channels, got "
                f"{event_shape!r}."
            )
        self.levels = None if levels is None else checked_integer("levels", levels, 2)
        self.preprocessing = preprocessing
        self.alpha = alpha
        self.blocks = checked_integers("blocks", blocks, "scale")
        self.hidden = checked_widths(hidden, len(self.blocks))
        self.kernel_sizes = checked_integers("kernel_sizes", kernel_sizes, "linear layer")
        self.coeff = coeff
        self.activation = activation
        self.factor_out = bool(factor_out)
        self.actnorm = bool(actnorm)
        self.prior_kind = prior
        self.power_iterations = power_iterations
        self.normalization = normalization
        self.log_det = RussianRoulette() if log_det is None else log_det
        if eval_log_det is None:
            eval_log_det = RussianRoulette(exact_terms=20, probability=0.1)
        self.eval_log_det = eval_log_det
        for name in ("log_det", "eval_log_det"):
            checked_instance(name, getattr(self, name), LogDetEstimator, "Exact()")
        self.solver = Picard() if solver is None else solver
        self.recompute = bool(recompute)
        checked_instance("solver", self.solver, Solver, "Picard()")
        self.seed = checked_integer("seed", seed)

        self.flow = InvertibleSequential(self._make_layers(), name="flow", dtype=self.dtype_policy)
        self.prior = DiagonalNormal(prior == "learned", name="prior", dtype=self.dtype_policy)
        self.flow.build((None, *self.event_shape))
        self.prior.build(self.flow.compute_output_shape((None, *self.event_shape)))
        self._bits_metric = keras.metrics.Mean(name="bits_per_dim")
        self._finish_build()

    def _make_layers(self) -> list[InvertibleLayer]:
        widths = widths_of_scales(self.hidden, len(self.blocks))
        policy = self.dtype_policy
        scales = []
        for index, (count, width) in enumerate(zip(self.blocks, widths, strict=True)):
            layers: list[InvertibleLayer] = []
            if len(self.event_shape) > 1:
                layers.append(Squeeze(dtype=policy, name="squeeze"))
            for block in range(count):
                if self.actnorm:
                    layers.append(ActNorm(dtype=policy, name=f"actnorm_{block}"))
                layers.append(
                    InvertibleResidual(
                        hidden=width,
                        kernel_sizes=self.kernel_sizes,
                        coeff=self.coeff,
                        activation=self.activation,
                        power_iterations=self.power_iterations,
                        normalization=self.normalization,
                        log_det=self.log_det,
                        solver=self.solver,
                        recompute=self.recompute,
                        dtype=policy,
                        name=f"block_{block}",
                    )
                )
            scales.append(InvertibleSequential(layers, dtype=policy, name=f"scale_{index}"))
        layers = [MultiScale(scales, self.factor_out, dtype=policy, name="scales")]
        if self.preprocessing == "marginal" and self.levels is not None:
            layers.insert(0, MarginalGaussianization(self.levels, self.alpha, dtype=policy))
        elif self.preprocessing is not None and self.levels is not None:
            layers.insert(
                0,
                ImagePreprocessing(
                    self.levels, self.preprocessing, self.alpha, dtype=policy, name="preprocessing"
                ),
            )
        return layers

    @property
    def dims(self) -> int:
        """The number of dimensions d of one example."""
        return math.prod(self.event_shape)

    # --- densities ---

    def log_prob(
        self, x: Any, seed: Any = None, log_det: LogDetEstimator | None = None
    ) -> tf.Tensor:
        """Returns an estimate of ln p(x).

        Args:
          x: [batch, *event_shape]; dequantised pixels in [0, levels) where there are levels.
          seed: an integer, or int32 [2] or [3] (see `tf_iresnet.randomness`): the value of
            example i depends on the key and on its global index alone. None draws anew.
          log_det: an estimator; by default the model's ``eval_log_det``.

        Returns:
          Nats, [batch]; unbiased unless a truncated series is asked for.

        Raises:
          ValueError: in eager code, if x has another shape, is not finite or leaves its range.
        """
        x = self._checked(x)
        estimator = self.eval_log_det if log_det is None else log_det
        checked_instance("log_det", estimator, LogDetEstimator, "Exact()")
        return self._log_prob(x, randomness.as_seed(seed), estimator, training=False)

    def _log_prob(self, x, seed, estimator, training):
        z, log_det = self.flow.forward_and_log_det(x, seed, estimator, training)
        return self.prior.log_prob(z) + tf.cast(log_det, z.dtype)

    def bits_per_dim(
        self, x: Any, seed: Any = None, log_det: LogDetEstimator | None = None
    ) -> tf.Tensor:
        """Returns -log2 p(x) / d, [batch]; arguments as in `log_prob`."""
        return self.to_bits(self.log_prob(x, seed, log_det))

    def to_bits(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Turns ln p(x) in nats into bits/dim."""
        return log_prob * (-1.0 / (math.log(2.0) * self.dims))

    def _checked(self, x: Any) -> tf.Tensor:
        x = super()._checked(x)
        levels = None if self.preprocessing is None else self.levels
        if levels is not None and tf.executing_eagerly() and len(x):
            low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
            if low < 0.0 or high > levels:
                raise ValueError(
                    f"x must lie in [0, {levels}), pixels plus dequantisation noise, got "
                    f"values from {low:g} to {high:g}."
                )
        return x

    # --- both directions ---

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        return self.flow.forward(self._checked(x))

    def encode(self, x: Any) -> tf.Tensor:
        """Returns the latents z [batch, d] of x."""
        return self.flow.forward(self._checked(x))

    def decode(self, z: Any, return_result: bool = False) -> Any:
        """Returns the x of latents z [batch, d].

        Args:
          z: latents, [batch, d].
          return_result: whether to return the solver's `FixedPointResult` instead.

        Returns:
          x [batch, *event_shape], or the result. Pixels leave [0, levels) where z is far out.

        Raises:
          ValueError: if z has another shape.
          ConvergenceError: in eager code, if an example did not converge.
        """
        z = self._checked_shape("z", z, (self.dims,))
        return self.flow.inverse(z, return_result=return_result)

    def sample(self, n: int, seed: Any = None, temperature: float = 1.0) -> tf.Tensor:
        """Draws examples from the density.

        Args:
          n: how many, at least 1.
          seed: as in `log_prob`.
          temperature: factor of the latents' standard deviation, at least 0.

        Returns:
          [n, *event_shape]; pixels are clipped to [0, levels), which a preprocessing's inverse may
          leave.

        Raises:
          ValueError: if an argument is out of range.
          ConvergenceError: in eager code, if the inverse did not converge.
        """
        return self.clipped(self.decode(self.sample_latents(n, seed, temperature)))

    def sample_latents(self, n: int, seed: Any = None, temperature: float = 1.0) -> tf.Tensor:
        """Draws the latents z [n, d] that `sample` decodes."""
        if not tf.is_tensor(n):
            n = checked_integer("n", n, 1)
        if not tf.is_tensor(temperature):
            number = isinstance(temperature, numbers.Real)
            if not number or not 0.0 <= temperature < math.inf:
                raise ValueError(
                    f"temperature must be a finite number of at least 0, got {temperature!r}."
                )
        return self.prior.sample(n, randomness.as_seed(seed), temperature)

    def clipped(self, x: tf.Tensor) -> tf.Tensor:
        """Moves pixels into [0, levels), on which the density is defined; points stay."""
        if self.preprocessing is None:
            return x
        dtype = x.dtype.as_numpy_dtype
        return tf.clip_by_value(x, dtype(0), np.nextafter(dtype(self.levels), dtype(0)))

    def as_distribution(self) -> Any:
        """Returns the density as a TensorFlow Probability distribution that shares the weights.

        Its `log_prob` is cheap and uses ``eval_log_det``, its `sample` iterates.

        Returns:
          A `tfd.TransformedDistribution` with event shape ``event_shape``.
        """
        import tensorflow_probability as tfp

        from tf_iresnet.bijectors import KerasBijector

        tfd = tfp.distributions
        scale = tfp.util.DeferredTensor(self.prior.log_scale._value, tf.exp)
        base = tfd.Independent(tfd.Normal(self.prior.loc._value, scale), 1)
        bijector = KerasBijector(self.flow, log_det=self.eval_log_det)
        return tfd.TransformedDistribution(base, tfp.bijectors.Invert(bijector), name=self.name)

    # --- Keras' loops ---

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        loss = [self._loss_tracker] if self.compiled else []
        return [*loss, self._bits_metric]

    def _examples(self, data: Any) -> tf.Tensor:
        return data[0] if isinstance(data, (tuple, list)) else data

    def _step_seed(self, step: Any, first: tf.Tensor) -> tf.Tensor:
        """The seed of a step: its key, and the global index of this replica's first example."""
        key = randomness.fold_in(randomness.as_seed(self.seed), step)[:2]
        return tf.concat([key, [first]], axis=0)

    def _loss(self, data: Any, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        step = tf.convert_to_tensor(self.steps_taken) if training else -1
        estimator = None if training else self.eval_log_det
        x, seed = self._checked(self._examples(data)), self._step_seed(step, first)
        bits = self.to_bits(self._log_prob(x, seed, estimator, training))

        def update_metrics() -> None:
            for metric in self.metrics:
                metric.update_state(bits)

        return tf.reduce_sum(bits), update_metrics

    def get_config(self) -> dict[str, Any]:
        return {
            **self._base_config(),
            "event_shape": self.event_shape,
            "levels": self.levels,
            "preprocessing": self.preprocessing,
            "alpha": self.alpha,
            "blocks": self.blocks,
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "coeff": self.coeff,
            "activation": self.activation,
            "factor_out": self.factor_out,
            "actnorm": self.actnorm,
            "prior": self.prior_kind,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "log_det": keras.saving.serialize_keras_object(self.log_det),
            "eval_log_det": keras.saving.serialize_keras_object(self.eval_log_det),
            "solver": keras.saving.serialize_keras_object(self.solver),
            "recompute": self.recompute,
            "ema_momentum": self.ema_momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> IResNetFlow:
        config = dict(config)
        for key in ("log_det", "eval_log_det", "solver"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)
