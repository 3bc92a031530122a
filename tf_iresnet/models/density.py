"""What a density model offers: likelihoods, both directions and samples."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import checked_instance, checked_integer
from tf_iresnet.layers.conditioned import Conditioned
from tf_iresnet.layers.context import checked_context, checked_context_vector, given
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.inputs import check_shape
from tf_iresnet.models.model import InvertibleModel
from tf_iresnet.models.pixels import centred, check_pixels, nan_where_no_density, noisy
from tf_iresnet.models.prior import DiagonalNormal


class DensityModel(InvertibleModel):
    r"""A density p(x) = prior(f(x)) \|det df/dx\|, or p(x | c) for each context c.

    A subclass sets the attributes below and says how the model is trained.
    """

    prior: DiagonalNormal
    levels: int | None
    preprocessing: str | None
    context_size: int | None
    eval_log_det: LogDetEstimator

    @property
    def dims(self) -> int:
        """The number of dimensions d of one example."""
        return math.prod(self.event_shape)

    # --- densities ---

    def log_prob(
        self,
        x: Any,
        seed: Any = None,
        log_det: LogDetEstimator | None = None,
        context: Any = None,
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
          ValueError: in eager code, if x has another shape, is not finite or leaves its range, or
            if pixels are without noise or were scaled to [0, 1]; if the context is missing, not
            wanted or of another shape. In graphs x that is no data has the value NaN.
        """
        x = self._event(x)
        seed = randomness.own_keys(randomness.as_seed(seed), x)
        x = self._checked(x, seed, densities=True)
        conditions = self._given(context, x)
        estimator = self.eval_log_det if log_det is None else log_det
        checked_instance("log_det", estimator, LogDetEstimator, "Exact()")
        return self._log_prob(x, seed, estimator, False, **conditions)

    def _log_prob(self, x, seed, estimator, training, context=None):
        return self._latents_and_log_prob(x, seed, estimator, training, context)[1]

    def _latents_and_log_prob(self, x, seed, estimator, training, context=None):
        z, log_det = self.flow.forward_and_log_det(
            x, seed, estimator, training, **given(self.flow, context)
        )
        log_prob = self.prior.log_prob(z, **given(self.prior, context))
        return z, log_prob + tf.cast(log_det, z.dtype)

    def bits_per_dim(
        self,
        x: Any,
        seed: Any = None,
        log_det: LogDetEstimator | None = None,
        context: Any = None,
    ) -> tf.Tensor:
        """Returns -log2 p(x) / d, [batch]; arguments as in `log_prob`."""
        return self.to_bits(self.log_prob(x, seed, log_det, context))

    def to_bits(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Turns ln p(x) in nats into bits/dim."""
        return log_prob * (-1.0 / (math.log(2.0) * self.dims))

    @property
    def _pixel_levels(self) -> int | None:
        """How many levels x has as pixels; None where data is taken as it is."""
        return None if self.preprocessing is None else self.levels

    def _event(self, x: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if self._pixel_levels is None or not x.dtype.is_integer:
            return super()._event(x)
        check_shape("x", x.shape, self.event_shape)
        return x  # the noise is still to come

    def _dequantised(self, x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Adds noise of a seed to pixels that are integers; without a seed takes their centres."""
        levels = self._pixel_levels
        if levels is None or not x.dtype.is_integer:
            return x
        if seed is None:
            return centred(x, levels, self.variable_dtype)
        return noisy(x, seed, levels, self.variable_dtype)

    def _checked(self, x: Any, seed: Any = None, densities: bool = False) -> tf.Tensor:
        """Converts data, and refuses what is none: by an error, or in graphs by NaN.

        Args:
          x: [batch, *event_shape].
          seed: of the noise of pixels that are integers; None takes their centres.
          densities: whether likelihoods are asked for.
        """
        levels = self._pixel_levels
        if levels is None:
            return super()._checked(x)
        x = self._event(x)
        whole = x.dtype.is_integer
        if tf.executing_eagerly():
            x = x if whole else super()._checked(x)
            check_pixels(x, levels, densities)
        elif densities and not whole:
            x = nan_where_no_density(x, levels)
        return self._dequantised(x, seed)

    def _given(self, context: Any, x: tf.Tensor) -> dict[str, Any]:
        """Checks a context; returns it as a keyword argument, where one is due."""
        context = checked_context(f"the flow {self.name}", context, self.context_size, x)
        unknown = context is None or not tf.executing_eagerly()
        if not (unknown or bool(tf.reduce_all(tf.math.is_finite(context)))):
            raise ValueError("context holds NaN or infinite values; remove those examples.")
        return given(self, context)

    def _adaptation_inputs(self, x: Any, context: Any = None) -> tuple[tf.Tensor, dict[str, Any]]:
        # Noise, since the centres of cells have no spread where pixels are constant.
        x = self._checked(x, randomness.as_seed(0), densities=True)
        return x, self._given(context, x)

    # --- both directions ---

    def call(self, x: Any, training: bool | None = None, context: Any = None) -> tf.Tensor:
        x = self._checked(x)
        return self.flow.forward(x, training=bool(training), **self._given(context, x))

    def encode(self, x: Any, context: Any = None) -> tf.Tensor:
        """Returns the latents z [batch, d] of x; context as in `log_prob`.

        Pixels that are integers are taken at the centres of their cells, x + 1/2, so that z is a
        function of x alone.
        """
        x = self._checked(x)
        return self.flow.forward(x, **self._given(context, x))

    def decode(self, z: Any, return_result: bool = False, context: Any = None) -> Any:
        """Returns the x of latents z [batch, d].

        Args:
          z: latents, [batch, d].
          return_result: whether to return the solver's `FixedPointResult` instead.
          context: [batch, context_size], for a conditional flow.

        Returns:
          x [batch, *event_shape], or the result. Pixels leave [0, levels) where z is far out.

        Raises:
          ValueError: if z or the context has another shape.
          ConvergenceError: in eager code, if an example did not converge.
        """
        z = self._checked_shape("z", z, (self.dims,))
        return self.flow.inverse(z, return_result, **self._given(context, z))

    def sample(
        self, n: int, seed: Any = None, temperature: float = 1.0, context: Any = None
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
        self, n: int, seed: Any = None, temperature: float = 1.0, context: Any = None
    ) -> tf.Tensor:
        """Draws the latents z [n, d] that `sample` decodes."""
        if not tf.is_tensor(n):
            n = checked_integer("n", n, 1)
        if not tf.is_tensor(temperature):
            number = isinstance(temperature, numbers.Real)
            if not number or not 0.0 <= temperature < math.inf:
                raise ValueError(
                    f"temperature must be a finite number of at least 0, got {temperature!r}."
                )
        conditions = self._given(context, tf.zeros([n, 0], self.variable_dtype))
        key = randomness.as_seed(seed)
        return self.prior.sample(
            n, key, temperature, **given(self.prior, conditions.get("context"))
        )

    def clipped(self, x: tf.Tensor) -> tf.Tensor:
        """Moves pixels into [0, levels), on which the density is defined; points stay."""
        if self.preprocessing is None:
            return x
        dtype = x.dtype.as_numpy_dtype
        return tf.clip_by_value(x, dtype(0), np.nextafter(dtype(self.levels), dtype(0)))

    def as_distribution(self, context: Any = None) -> Any:
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
        row = checked_context_vector(owner, context, self.context_size, self.variable_dtype)
        layer = self.flow if row is None else Conditioned(self.flow, row)
        rows = given(self.prior, None if row is None else row[None])
        variables = [variable.value for variable in self.prior.variables]

        def deferred(index, transform):
            """A parameter of the prior, computed anew from its weights at each use."""
            return tfp.util.DeferredTensor(
                self.prior.loc.value,
                lambda _: transform(tf.reshape(self.prior.parameters(**rows)[index], [-1])),
                also_track=variables,
            )

        tfd = tfp.distributions
        base = tfd.Independent(tfd.Normal(deferred(0, tf.identity), deferred(1, tf.exp)), 1)
        bijector = KerasBijector(layer, log_det=self.eval_log_det)
        return tfd.TransformedDistribution(base, tfp.bijectors.Invert(bijector), name=self.name)
