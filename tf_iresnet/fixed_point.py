r"""Fixed-point inverses of x + g(x): solvers, their result and the gradient through them.

x = y - g(x) has one solution when Lip(g) < 1, and x_{i+1} = y - g(x_i) converges to it with
|x_n - x| <= Lip(g)^n / (1 - Lip(g)) |x_1 - x_0|. Solvers stop on the residual
RMS(x + g(x) - y) of each example, never on the size of a step.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.functions import Function, Parameters


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
            raise ConvergenceError(
                f"the inverse of {failed} of {self.converged.shape[0]} examples did not converge: "
                f"residual {worst:.3g} after {int(tf.reduce_max(self.steps))} steps. {hint()}"
                "Pass return_result=True for the iterates, or raise the solver's max_steps."
            )
        mask = tf.reshape(self.converged, [-1] + [1] * (self.x.shape.rank - 1))
        return tf.where(mask, self.x, tf.constant(math.nan, self.x.dtype))


def _rms(x: tf.Tensor) -> tf.Tensor:
    axes = list(range(1, x.shape.rank))
    # Scaled by the largest entry: squares of huge ones would overflow, and an infinite tolerance
    # accept anything.
    scale = tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    return tf.squeeze(scale, axes) * tf.sqrt(tf.reduce_mean(tf.square(x / scale), axis=axes))


class Solver(abc.ABC):
    """Solves x + g(x) = y for each example of a batch."""

    def __init__(
        self, max_steps: int = 1000, atol: float | None = None, rtol: float | None = None
    ) -> None:
        if int(max_steps) != max_steps or max_steps < 1:
            raise ValueError(f"max_steps must be an integer of at least 1, got {max_steps!r}.")
        for name, value in (("atol", atol), ("rtol", rtol)):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")
        self.max_steps = int(max_steps)
        self.atol = atol
        self.rtol = rtol

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"max_steps": self.max_steps, "atol": self.atol, "rtol": self.rtol}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Solver:
        """Builds the solver from `get_config`'s result."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def tolerance(self, y: tf.Tensor) -> tf.Tensor:
        """Returns atol + rtol RMS(y) per example; by default a few units in the last place."""
        unit = float(np.finfo(y.dtype.as_numpy_dtype).eps)
        atol = 4 * unit if self.atol is None else self.atol
        rtol = 4 * unit if self.rtol is None else self.rtol
        return atol + rtol * _rms(y)

    @abc.abstractmethod
    def solve(self, g: Callable[[tf.Tensor], tf.Tensor], y: tf.Tensor) -> FixedPointResult:
        """Solves x + g(x) = y.

        Args:
          g: maps [batch, ...] to the same shape and dtype, each example by itself.
          y: [batch, ...], float32 or float64.

        Returns:
          A `FixedPointResult`. An example's result does not depend on the rest of the batch.
        """


@keras.saving.register_keras_serializable("tf_iresnet")
class Picard(Solver):
    r"""Picard iteration x <- y - g(x), from x = y.

    Args:
      max_steps: the largest number of evaluations of g.
      atol: absolute tolerance of the residual's RMS, in units of y; None for 4 units in the
        last place of the dtype.
      rtol: tolerance relative to RMS(y); None likewise. Where neither is given the iteration
        goes on below these tolerances while each step still removes a tenth of the residual:
        later blocks of an inverse amplify what an earlier one leaves.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> result = Picard().solve(lambda x: 0.5 * x, tf.constant([[3.0]]))
    >>> bool(result.converged[0]), round(float(result.x[0, 0]), 5)
    (True, 2.0)

    Source: Invertible Residual Networks, algorithm 1.
    """

    def solve(self, g, y):
        tolerance = self.tolerance(y)
        to_rounding = self.atol is None and self.rtol is None
        batch = tf.shape(y)[:1]

        def unfinished(x, step, steps, residual, active):
            return tf.reduce_any(active)

        def update(x, step, steps, residual, active):
            error = x + g(x) - y
            new = _rms(error)
            wanted = new > tolerance
            if to_rounding:
                wanted |= (new > 0) & (new < 0.9 * residual)
            residual = tf.where(active, new, residual)
            steps = tf.where(active, step + 1, steps)
            # A diverged example (NaN, infinity) is given up; its residual tells.
            active = active & wanted & tf.math.is_finite(new)
            mask = tf.reshape(active, [-1] + [1] * (y.shape.rank - 1))
            x = tf.ensure_shape(tf.where(mask, x - error, x), y.shape)
            return x, step + 1, steps, residual, active

        start = (
            y,
            tf.constant(0),
            tf.zeros(batch, tf.int32),
            tf.fill(batch, tf.constant(math.inf, y.dtype)),
            tf.ones(batch, tf.bool),
        )
        x, _, steps, residual, _ = tf.while_loop(
            unfinished, update, start, maximum_iterations=self.max_steps, parallel_iterations=1
        )
        return FixedPointResult(x, steps, residual, residual <= tolerance)


def invert(
    function: Function, parameters: Parameters, y: tf.Tensor, solver: Solver
) -> FixedPointResult:
    r"""Solves x + g(x) = y, differentiable in y and the parameters without unrolling.

    With x the solution, the implicit function theorem gives dx = (I + J)^{-1} (dy - dg), so an
    upstream gradient u is pulled back to l = (I + J^T)^{-1} u, itself the solution of
    l + J^T l = u by the same solver; y receives l, and the parameters -l^T dg. The solver's
    tolerances apply to u / RMS(u), so that a gradient's scale does not matter.

    Args:
      function: the branch g.
      parameters: its parameters.
      y: [batch, ...].
      solver: a `Solver`.

    Returns:
      A `FixedPointResult`; only its ``x`` carries a gradient.
    """

    @tf.custom_gradient
    def solve(y, *parameters):
        result = solver.solve(lambda x: function(parameters, x), y)

        def gradient(upstream, *unused):
            _, point = function.linearize(parameters, result.x)
            scale = tf.reshape(_rms(upstream), [-1] + [1] * (y.shape.rank - 1))
            scale = tf.where(scale > 0, scale, tf.ones_like(scale))
            pulled = scale * solver.solve(
                lambda c: function.pullback(parameters, point, c), upstream / scale
            ).checked(lambda: "This is the linear solve of the inverse's gradient. ")
            _, by_parameters = function.gradient(parameters, point, -pulled)
            return (pulled, *by_parameters)

        return tuple(result), gradient

    return FixedPointResult(*solve(y, *parameters))
