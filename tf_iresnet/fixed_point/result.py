"""What a solver found, and the error for what it did not find."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_iresnet.fixed_point.failure import nan_where_failed

# Residuals of fewer units in the last place may be all that rounding allows.
_ROUNDING = 64
# The same for arithmetic with bfloat16's 8 bits, or TF32's 11, in units of the size of x.
_COARSE = 2.0**-6


class ConvergenceError(RuntimeError):
    """A fixed-point inverse did not reach its tolerance.

    Attributes:
      result: the `FixedPointResult`, with the iterates and the bound of their error; None for a
        gradient.

    Example:
    >>> from tf_iresnet.fixed_point import Picard
    >>> result = Picard(max_steps=1).solve(lambda x: 0.9 * x, tf.constant([[1.0]]))
    >>> try:
    ...     x = result.checked()
    ... except ConvergenceError as error:
    ...     print(error.result.converged.numpy().tolist())
    [False]
    """

    def __init__(self, message: str, result: FixedPointResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class FixedPointResult(NamedTuple):
    r"""What a solver found, per example.

    ``error_bound`` is proven: with x\* the exact preimage of y, under the kernels, biases and
    scales that the layer computes with and in exact arithmetic from there,
    \|x - x\*\|_2 <= error_bound in the Euclidean norm of an example, and so in each entry. It
    holds whether or not the example converged. It is infinite where nothing is proven: for a branch
    that is not known to contract, or whose roundings are not known, and, in graphs, for weights
    that have changed since the graph was traced.

    Attributes:
      x: the last iterate, [batch, ...].
      steps: evaluations of g, int32 [batch].
      residual: RMS of x + g(x) - y at the last evaluation, [batch], in units of y.
      converged: whether the residual met the tolerance, bool [batch].
      error_bound: of the Euclidean distance to the exact preimage, float64 [batch], in units of
        x. Inside the library it may be a function that returns it, see `bounded`.

    Example:
    >>> result = FixedPointResult.exact(tf.constant([[1.0], [2.0]]))
    >>> result.converged.numpy().tolist(), result.bound().numpy().tolist()
    ([True, True], [0.0, 0.0])

    Source: Invertible Residual Networks, lemma 2, for the bound.
    """

    x: tf.Tensor
    steps: tf.Tensor
    residual: tf.Tensor
    converged: tf.Tensor
    error_bound: tf.Tensor | Callable[[], tf.Tensor] | float = math.inf

    @classmethod
    def exact(
        cls, x: tf.Tensor, error_bound: Callable[[], tf.Tensor] | float = 0.0
    ) -> FixedPointResult:
        """Returns the result of an inverse in closed form.

        Args:
          x: [batch, ...].
          error_bound: a bound of its rounding error, as in the class; 0 if numbers are only moved,
            infinity if no bound is known.
        """
        batch = tf.shape(x)[:1]
        return cls(
            x,
            tf.zeros(batch, tf.int32),
            tf.zeros(batch, x.dtype),
            tf.ones(batch, tf.bool),
            error_bound,
        )

    def bounded(self) -> FixedPointResult:
        """Returns the result with ``error_bound`` computed, see `bound`."""
        return self._replace(error_bound=self.bound())

    def bound(self) -> tf.Tensor:
        """Computes ``error_bound``, which costs an evaluation of each branch in float64."""
        bound = self.error_bound() if callable(self.error_bound) else self.error_bound
        bound = tf.cast(tf.convert_to_tensor(bound), tf.float64)
        bound = tf.where(tf.math.is_nan(bound), tf.constant(math.inf, tf.float64), bound)
        return tf.stop_gradient(tf.broadcast_to(bound, tf.shape(self.steps)))

    def then(
        self,
        earlier: FixedPointResult,
        amplification: Callable[[], tf.Tensor] | float = math.inf,
    ) -> FixedPointResult:
        """Appends the inverse of an earlier layer: steps add up, the worst residual counts.

        Args:
          earlier: that inverse, of this result's x.
          amplification: a Lipschitz constant of that inverse, by which errors grow.
        """

        def error() -> tf.Tensor:
            before, own = (result.bound() for result in (self, earlier))
            factor = amplification() if callable(amplification) else amplification
            factor = tf.cast(factor, tf.float64)
            grown = tf.where(before > 0, factor * before, tf.zeros_like(before))
            return _ROUNDED_UP * (own + grown)

        bounds = (self.error_bound, earlier.error_bound)
        nothing = all(isinstance(bound, float) and bound == 0.0 for bound in bounds)
        return FixedPointResult(
            earlier.x,
            self.steps + earlier.steps,
            tf.maximum(self.residual, tf.cast(earlier.residual, self.residual.dtype)),
            self.converged & earlier.converged,
            0.0 if nothing else error,
        )

    def checked(self, hint: Callable[[], str] = str) -> tf.Tensor:
        """Returns x; what did not converge raises in eager code and is NaN in graphs.

        Gradients of what is NaN are NaN.

        Args:
          hint: returns more words on the cause; called only when needed.

        Raises:
          ConvergenceError: in eager code, if an example did not converge.
        """
        if tf.executing_eagerly() and not bool(tf.reduce_all(self.converged)):
            failed = int(tf.reduce_sum(tf.cast(~self.converged, tf.int32)))
            worst = float(tf.reduce_max(tf.where(self.converged, 0.0, self.residual)))
            hints = hint() + self._precision_hint()
            raise ConvergenceError(
                f"the inverse of {failed} of {self.converged.shape[0]} examples did not converge: "
                f"residual {worst:.3g} after {int(tf.reduce_max(self.steps))} steps. {hints}"
                "Pass return_result=True for the iterates, or raise the solver's max_steps.",
                self.bounded(),
            )
        return nan_where_failed(self.x, self.converged)

    def _precision_hint(self) -> str:
        """Says whether rounding alone explains the failure, in words for the message."""
        x = tf.boolean_mask(self.x, ~self.converged)
        unit = np.finfo(x.dtype.as_numpy_dtype).eps
        size = float(tf.reduce_max(tf.abs(x)))
        worst = float(tf.reduce_max(tf.boolean_mask(self.residual, ~self.converged)))
        if worst <= _ROUNDING * unit * size:
            return (
                f"{x.dtype.name} resolves no more at this size of x: raise the solver's atol or "
                "rtol, or compute in float64. "
            )
        if worst <= _COARSE * size:
            return (
                "The residual has the size of roundings to fewer bits than "
                f"{x.dtype.name} has: a branch that computes in bfloat16 or float16, or in float32 "
                "on a device that rounds products (TF32). Give it full precision, or raise the "
                "solver's atol or rtol to what it resolves. "
            )
        return ""


_ROUNDED_UP = 1.0 + 2.0**-48  # more than the roundings of a few operations in float64
