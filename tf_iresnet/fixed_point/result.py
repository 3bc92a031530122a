"""What a solver found, and the error for what it did not find."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Residuals of fewer units in the last place may be all that rounding allows.
_ROUNDING = 64


class ConvergenceError(RuntimeError):
    """A fixed-point inverse did not reach its tolerance."""


class FixedPointResult(NamedTuple):
    """What a solver found, per example.

    Attributes:
      x: the last iterate, [batch, ...].
      steps: evaluations of g, int32 [batch].
      residual: RMS of x + g(x) - y at the last evaluation, [batch], in units of y.
      converged: whether the residual met the tolerance, bool [batch].
    """

    x: tf.Tensor
    steps: tf.Tensor
    residual: tf.Tensor
    converged: tf.Tensor

    @classmethod
    def exact(cls, x: tf.Tensor) -> FixedPointResult:
        """The result of an inverse in closed form."""
        batch = tf.shape(x)[:1]
        return cls(x, tf.zeros(batch, tf.int32), tf.zeros(batch, x.dtype), tf.ones(batch, tf.bool))

    def then(self, earlier: FixedPointResult) -> FixedPointResult:
        """Appends the inverse of an earlier layer: steps add up, the worst residual counts."""
        return FixedPointResult(
            earlier.x,
            self.steps + earlier.steps,
            tf.maximum(self.residual, tf.cast(earlier.residual, self.residual.dtype)),
            self.converged & earlier.converged,
        )

    def checked(self, hint: Callable[[], str] = str) -> tf.Tensor:
        """Returns x; what did not converge raises in eager code and is NaN in graphs.

        Args:
          hint: says more about the cause; called only when needed.

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
                "Pass return_result=True for the iterates, or raise the solver's max_steps."
            )
        mask = tf.reshape(self.converged, [-1] + [1] * (self.x.shape.rank - 1))
        return tf.where(mask, self.x, tf.constant(math.nan, self.x.dtype))

    def _precision_hint(self) -> str:
        """Says whether rounding alone explains what failed."""
        x = tf.boolean_mask(self.x, ~self.converged)
        unit = np.finfo(x.dtype.as_numpy_dtype).eps
        bound = _ROUNDING * unit * float(tf.reduce_max(tf.abs(x)))
        if not float(tf.reduce_max(tf.boolean_mask(self.residual, ~self.converged))) <= bound:
            return ""
        return (
            f"{x.dtype.name} resolves no more at this size of x: raise the solver's atol or rtol, "
            "or compute in float64. "
        )
