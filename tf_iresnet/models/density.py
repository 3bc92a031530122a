"""Density models: likelihoods, both directions and samples."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import (
    check_alpha,
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_integers,
)
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.conditioned import Conditioned
from tf_iresnet.layers.context import (
    check_context,
    check_context_size,
    check_context_vector,
    context_keyword,
)
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.preprocessing import ImagePreprocessing
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.architecture import Architecture
from tf_iresnet.models.invertible_model import InvertibleModel
from tf_iresnet.models.likelihood import Likelihood
from tf_iresnet.models.normalizing_flow import NormalizingFlow
from tf_iresnet.models.prior import DiagonalNormal
from tf_iresnet.models.training.events import Event, convert_event
from tf_iresnet.options import restore
from tf_iresnet.typing import ArrayLike, Config, Context, Inputs, Seed

if TYPE_CHECKING:
    from tensorflow_probability import distributions as tfd


class DensityModel(InvertibleModel):
    r"""A density p(x) = prior(f(x)) \|det df/dx\|, or p(x | c) for each context c.

    f is a preprocessing followed by the scales of an architecture. Training minimises the mean of
    -log2 p(x) / d, weighted where examples have weights.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      architecture: what the scales are made of.
      levels: how many values a pixel takes; None for data that is not quantised.
      preprocessing: "logit", "shift", "marginal" or None; "auto" for "logit" where there are
        levels.
      alpha: how far "logit" and "marginal" keep from the ends of the range.
      factor_out: whether half of the channels leave after each scale but the last.
      prior: "learned" for a diagonal normal with trained mean and scale, "standard" for a
        fixed one.
      eval_log_det: estimator of `log_prob`; by default the architecture's.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      context_size: features of the context; None for an unconditional density.
      seed: of the noise in training and evaluation.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.
    """

    objective: Likelihood

    def __init__(
        self,
        event_shape: Sequence[int],
        architecture: Architecture,
        *,
        levels: int | None = 256,
        preprocessing: str | None = "auto",
        alpha: float = 1e-6,
        factor_out: bool = False,
        prior: str = "learned",
        eval_log_det: LogDetEstimator | None = None,
        ema_momentum: float | None = 0.999,
        context_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        check_instance("architecture", architecture, Architecture, "IResNet()")
        self.architecture = architecture
        if isinstance(preprocessing, str) and preprocessing == "auto":
            preprocessing = None if levels is None else "logit"
        check_choice("preprocessing", preprocessing, ("logit", "shift", "marginal", None))
        if preprocessing is not None and levels is None:
            raise ValueError(
                f"preprocessing={preprocessing!r} needs the number of levels, got levels=None; "
                "give it, or pass preprocessing=None."
            )
        self.event_shape = check_integers("event_shape", event_shape, "axis of one example")
        if len(self.event_shape) > 4:
            raise ValueError(
                "event_shape must be (d,), or one to three spatial sizes and the channels, got "
                f"{event_shape!r}."
            )
        self.levels = None if levels is None else check_integer("levels", levels, 2)
        self.preprocessing = preprocessing
        self.alpha = check_alpha(alpha)
        self.factor_out = check_flag("factor_out", factor_out)
        self.prior_kind = check_choice("prior", prior, ("learned", "standard"))
        self.context_size = check_context_size(context_size)
        seed = check_integer("seed", seed)
        eval_log_det = architecture.estimator if eval_log_det is None else eval_log_det
        check_instance("eval_log_det", eval_log_det, LogDetEstimator, "Exact()")
        self._build_density()
        self._compose(self._make_objective(eval_log_det=eval_log_det, seed=seed))

    def _build_density(self) -> None:
        """Builds preprocessing, scales and prior."""
        policy, shape = self.dtype_policy, (None, *self.event_shape)
        scales = self.architecture.scales(
            self.event_shape,
            factor_out=self.factor_out,
            context_size=self.context_size,
            dtype=policy,
        )
        self._scales = MultiScale(scales, self.factor_out, dtype=policy, name="scales")
        layers = [*self._preprocessing_layers(), self._scales]
        self.flow = InvertibleSequential(layers, name="flow", dtype=policy)
        learned = self.prior_kind == "learned"
        self.prior = DiagonalNormal(
            learned, self.context_size if learned else None, name="prior", dtype=policy
        )
        self.flow.build(shape)
        self.prior.build(self.flow.compute_output_shape(shape))
        self._density = NormalizingFlow(self.flow, self.prior, math.prod(self.event_shape))

    def _preprocessing_layers(self) -> list[InvertibleLayer]:
        kind, policy = self.preprocessing, self.dtype_policy
        if kind is None or self.levels is None:
            return []
        if kind == "marginal":
            return [MarginalGaussianization(self.levels, self.alpha, dtype=policy)]
        name = "preprocessing"
        return [ImagePreprocessing(self.levels, kind, self.alpha, dtype=policy, name=name)]

    def _make_objective(self, **options: Any) -> Likelihood:
        """Returns what the model is trained for."""
        owner, event = f"the flow {self.name}", self._make_event()
        return Likelihood(owner, event, self._density, context_size=self.context_size, **options)

    def _make_event(self) -> Event:
        levels = None if self.preprocessing is None else self.levels
        return Event(self.event_shape, self.variable_dtype, levels)

    @property
    def dims(self) -> int:
        """The number of dimensions d of one example."""
        return self._density.dims

    @property
    def eval_log_det(self) -> LogDetEstimator:
        """The estimator of `log_prob` and of evaluation."""
        return self.objective.eval_log_det

    @property
    def seed(self) -> int:
        """The seed of the noise in training and evaluation."""
        return self.objective.seed

    # --- densities ---

    def log_prob(
        self,
        x: ArrayLike,
        seed: Seed = None,
        log_det: LogDetEstimator | None = None,
        context: Context = None,
    ) -> tf.Tensor:
        """Returns an estimate of ln p(x), or of ln p(x | context).

        Args:
          x: [batch, *event_shape]; where there are levels, pixels: integers in [0, levels), to
            which uniform noise of the seed is added (`tf_iresnet.layers.Dequantize`), or floats
            that have theirs.
          seed: an integer, or int32 [2] or [3] (see `tf_iresnet.randomness`): the value of an
            example depends on the example, the weights and the key alone. None draws anew.
          log_det: an estimator; by default the model's ``eval_log_det``.
          context: [batch, context_size], for a conditional flow.

        Returns:
          Nats, [batch]; unbiased unless a truncated series is asked for. Equal examples have
          equal values: to average over draws, take several seeds.

        Raises:
          ValueError: if x has another shape, or the context is missing, not wanted or of another
            shape. In eager code also if x is not finite or leaves its range, or if pixels are
            without noise or were scaled to [0, 1]; in graphs the value of such x is NaN.
        """
        return self._latents_and_log_prob(x, seed, log_det, context)[1]

    def _latents_and_log_prob(
        self, x: ArrayLike, seed: Seed, log_det: LogDetEstimator | None, context: Context = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Checks the arguments of `log_prob`, and returns the latents beside it."""
        x = self._event.convert(x)
        seed = randomness.own_keys(randomness.as_seed(seed), x)
        x = self._event.check(x, seed, densities=True)
        estimator = self.eval_log_det if log_det is None else log_det
        check_instance("log_det", estimator, LogDetEstimator, "Exact()")
        context = self._check_context(context, x)
        return self._density.latents_and_log_prob(x, seed, estimator, False, context)

    def bits_per_dim(
        self,
        x: ArrayLike,
        seed: Seed = None,
        log_det: LogDetEstimator | None = None,
        context: Context = None,
    ) -> tf.Tensor:
        """Returns -log2 p(x) / d, [batch]; arguments as in `log_prob`."""
        return self.to_bits(self.log_prob(x, seed, log_det, context))

    def to_bits(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Turns ln p(x) in nats into bits/dim."""
        return self._density.to_bits(log_prob)

    def _check_context(self, context: Context, x: tf.Tensor) -> tf.Tensor | None:
        """Converts and checks a context; None where none is due."""
        context = check_context(f"the flow {self.name}", context, self.context_size, x)
        unknown = context is None or not tf.executing_eagerly()
        if not (unknown or bool(tf.reduce_all(tf.math.is_finite(context)))):
            raise ValueError("context holds NaN or infinite values; remove those examples.")
        return context

    def _adaptation_inputs(self, x: ArrayLike, context: Context = None) -> tuple[tf.Tensor, Inputs]:
        # With noise, since the centres of the cells of constant pixels have no spread.
        x = self._event.check(x, randomness.as_seed(0), densities=True)
        return x, context_keyword(self, self._check_context(context, x))

    # --- both directions ---

    def call(
        self, x: ArrayLike, training: bool | None = None, context: Context = None
    ) -> tf.Tensor:
        x = self._event.check(x)
        return self.flow.evaluate(x, bool(training), self._check_context(context, x))

    def encode(self, x: ArrayLike, context: Context = None) -> tf.Tensor:
        """Returns the latents z [batch, d] of x; context as in `log_prob`.

        Pixels that are integers are taken at the centres of their cells, x + 1/2, so that z is a
        function of x alone.
        """
        x = self._event.check(x)
        return self.flow.evaluate(x, context=self._check_context(context, x))

    @overload
    def decode(
        self, z: ArrayLike, return_result: Literal[False] = ..., context: Context = ...
    ) -> tf.Tensor: ...

    @overload
    def decode(
        self, z: ArrayLike, return_result: Literal[True], context: Context = ...
    ) -> FixedPointResult: ...

    def decode(
        self, z: ArrayLike, return_result: bool = False, context: Context = None
    ) -> tf.Tensor | FixedPointResult:
        """Returns the x of latents z [batch, d].

        Args:
          z: latents, [batch, d].
          return_result: whether to return the solver's `FixedPointResult` instead.
          context: [batch, context_size], for a conditional flow.

        Returns:
          x [batch, *event_shape], or the result. For z far out pixels may leave [0, levels).

        Raises:
          ValueError: if z or the context has another shape.
          ConvergenceError: in eager code, if an example did not converge.
        """
        z = convert_event("z", z, (self.dims,), self.variable_dtype)
        return self.flow.invert(z, return_result, self._check_context(context, z))

    def sample(
        self, n: int, seed: Seed = None, temperature: float = 1.0, context: Context = None
    ) -> tf.Tensor:
        """Draws examples from the density.

        Args:
          n: how many, at least 1.
          seed: as in `log_prob`.
          temperature: factor of the latents' standard deviation, at least 0.
          context: [n, context_size], for a conditional flow.

        Returns:
          [n, *event_shape]; pixels are clipped to [0, levels), which a preprocessing's inverse may
          leave.

        Raises:
          ValueError: if an argument is out of range.
          ConvergenceError: in eager code, if the inverse did not converge.
        """
        z = self.sample_latents(n, seed, temperature, context)
        return self.clipped(self.decode(z, context=context))

    def sample_latents(
        self, n: int, seed: Seed = None, temperature: float = 1.0, context: Context = None
    ) -> tf.Tensor:
        """Draws the latents z [n, d] that `sample` decodes."""
        if not tf.is_tensor(n):
            n = check_integer("n", n, 1)
        if not tf.is_tensor(temperature):
            number = isinstance(temperature, numbers.Real)
            if not number or not 0.0 <= temperature < math.inf:
                raise ValueError(
                    f"temperature must be a finite number of at least 0, got {temperature!r}."
                )
        context = self._check_context(context, tf.zeros([n, 0], self.variable_dtype))
        return self._density.sample_latents(n, randomness.as_seed(seed), temperature, context)

    def clipped(self, x: tf.Tensor) -> tf.Tensor:
        """Moves pixels into [0, levels), on which the density is defined; other data stay."""
        if self.preprocessing is None:
            return x
        dtype = x.dtype.as_numpy_dtype
        return tf.clip_by_value(x, dtype(0), np.nextafter(dtype(self.levels), dtype(0)))

    def as_distribution(self, context: Context = None) -> tfd.TransformedDistribution:
        """Returns the density as a TensorFlow Probability distribution that shares the weights.

        Its `log_prob` is cheap and uses ``eval_log_det``, its `sample` iterates.

        Args:
          context: [context_size], for a conditional flow: the distribution is p(x | context).

        Returns:
          A `tfd.TransformedDistribution` with event shape ``event_shape``.
        """
        import tensorflow_probability as tfp

        from tf_iresnet.bijectors import KerasBijector

        owner = f"the distribution of {self.name}"
        row = check_context_vector(owner, context, self.context_size, self.variable_dtype)
        layer = self.flow if row is None else Conditioned(self.flow, row)
        rows = context_keyword(self.prior, None if row is None else row[None])
        variables = [variable.value for variable in self.prior.variables]

        def deferred(index, transform):
            """Returns a parameter of the prior, computed from its weights at each use."""
            return tfp.util.DeferredTensor(
                self.prior.loc.value,
                lambda _: transform(tf.reshape(self.prior.parameters(**rows)[index], [-1])),
                also_track=variables,
            )

        tfd = tfp.distributions
        base = tfd.Independent(tfd.Normal(deferred(0, tf.identity), deferred(1, tf.exp)), 1)
        bijector = KerasBijector(layer, log_det=self.eval_log_det)
        return tfd.TransformedDistribution(base, tfp.bijectors.Invert(bijector), name=self.name)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "levels": self.levels,
            "preprocessing": self.preprocessing,
            "alpha": self.alpha,
            "factor_out": self.factor_out,
            "prior": self.prior_kind,
            "eval_log_det": keras.saving.serialize_keras_object(self.eval_log_det),
            "context_size": self.context_size,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> DensityModel:
        return cls(**restore(config))
