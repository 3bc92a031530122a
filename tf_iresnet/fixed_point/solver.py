"""What solvers of x + g(x) = y share: arguments, the stopping rule and the loop."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_iresnet.arguments import check_integer, check_real
from tf_iresnet.batches import event_axes, expand_like
from tf_iresnet.fixed_point.result import FixedPointResult
from tf_iresnet.typing import ArrayLike, Config

# What one method carries from step to step.
State = tuple[tf.Tensor, ...]

# An example is given up once so many evaluations have not lowered its residual to this share.
_PATIENCE = 200
_FALL = 0.98
# Residuals below this share of RMS(y) may be all that rounding allows: to the dtype's own bits,
# to TF32's 11 or to bfloat16's 8.
_ROUNDING = 2.0**-6
_PATIENCE_AT_ROUNDING = 50


def rms(x: tf.Tensor) -> tf.Tensor:
    """Returns the root of the mean square of each example, [batch]."""
    axes = event_axes(x)
    # Scaled by the largest entry: squares of huge ones would overflow, and an infinite tolerance
    # accept anything.
    scale = tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    return tf.squeeze(scale, axes) * tf.sqrt(tf.reduce_mean(tf.square(x / scale), axis=axes))


class Solver(abc.ABC):
    """Solves x + g(x) = y for each example of a batch.

    A method defines which point to try next (`_next`), and may reject points that were tried
    (`_keep`). Everything else is done here.

    Example:
    >>> class Halfway(Solver):
    ...     def _next(self, x, error, residual, kept, state):
    ...         return x - 0.5 * error, state
    >>> result = Halfway().solve(lambda x: 0.5 * x, tf.constant([[3.0]]))
    >>> round(float(result.x[0, 0]), 4)
    2.0

    Source: Invertible Residual Networks, algorithm 1.
    """

    def __init__(
        self, max_steps: int = 1000, atol: float | None = None, rtol: float | None = None
    ) -> None:
        due = "must be a finite number of at least 0, or None for that of the dtype"
        self.max_steps = check_integer("max_steps", max_steps, 1)
        self.atol, self.rtol = (
            value if value is None else check_real(name, value, due, lambda v: v >= 0)
            for name, value in (("atol", atol), ("rtol", rtol))
        )

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        return {"max_steps": self.max_steps, "atol": self.atol, "rtol": self.rtol}

    @classmethod
    def from_config(cls, config: Config) -> Solver:
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
        return atol + rtol * rms(y)

    # --- what a method defines ---

    def _start(self, y: tf.Tensor) -> State:
        """Returns the state before the first step."""
        return ()

    def _keep(self, better: tf.Tensor, state: State) -> tf.Tensor:
        """Says which examples keep the point just tried; ``better``: its residual is smaller."""
        return tf.ones_like(better)

    @abc.abstractmethod
    def _next(
        self, x: tf.Tensor, error: tf.Tensor, residual: tf.Tensor, kept: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, State]:
        """Returns the points to try next, and the new state.

        Args:
          x: the points just tried.
          error: x + g(x) - y at these points.
          residual: its RMS, [batch].
          kept: what `_keep` returned, bool [batch].
          state: the method's own.
        """

    # --- the loop ---

    def solve(
        self, g: Callable[[tf.Tensor], tf.Tensor], y: tf.Tensor, start: ArrayLike | None = None
    ) -> FixedPointResult:
        """Solves x + g(x) = y.

        Args:
          g: maps [batch, ...] to the same shape and dtype, each example by itself.
          y: [batch, ...], float32 or float64.
          start: where to start, of the shape of y (a solution of a similar problem saves
            steps); None starts from y.

        Returns:
          A `FixedPointResult`. An example's result does not depend on the rest of the batch.
          An example is given up as not converged once its residual has stopped falling: by less
          than 2 % in 200 steps, or in 50 steps where it is below a 64th of RMS(y). Roundings to
          TF32 or bfloat16 have that size, and the tolerance is then below what g resolves. A Picard
          residual falls by 2 % in 50 steps wherever Lip(g) < 0.9996 in the Euclidean norm.

        Raises:
          ValueError: if the start does not have the shape of y.
        """
        x = y if start is None else _check_start(start, y)
        tolerance = self.tolerance(y)
        rounding = _ROUNDING * rms(y)
        to_rounding = self.atol is None and self.rtol is None
        batch = tf.shape(y)[:1]
        infinite = tf.fill(batch, tf.constant(math.inf, y.dtype))

        def unfinished(x, found, residual, steps, least, idle, active, state):
            return tf.reduce_any(active)

        def update(x, found, residual, steps, least, idle, active, state):
            error = x + g(x) - y
            new = rms(error)
            better = new < residual
            kept = self._keep(better, state)
            wanted = tf.where(kept, new, residual) > tolerance
            if to_rounding:
                wanted |= (new > 0) & (new < 0.9 * residual)
            falls = new < _FALL * least
            idle = tf.where(falls, 0, idle + 1)
            least = tf.where(falls, new, least)
            wanted &= idle < tf.where(residual > rounding, _PATIENCE, _PATIENCE_AT_ROUNDING)
            # A diverged example (NaN, infinity) is given up; its residual shows it.
            wanted &= tf.math.is_finite(new) | ~kept
            following, state = self._next(x, error, new, kept, state)
            kept &= active
            found = tf.where(expand_like(kept, y), x, found)
            residual = tf.where(kept, new, residual)
            steps += tf.cast(active, tf.int32)
            active &= wanted
            x = tf.ensure_shape(tf.where(expand_like(active, y), following, x), y.shape)
            return x, found, residual, steps, least, idle, active, state

        loop = (
            x,
            x,
            infinite,
            tf.zeros(batch, tf.int32),
            infinite,
            tf.zeros(batch, tf.int32),
            tf.ones(batch, tf.bool),
            self._start(y),
        )
        _, found, residual, steps, *_ = tf.while_loop(
            unfinished, update, loop, maximum_iterations=self.max_steps, parallel_iterations=1
        )
        return FixedPointResult(found, steps, residual, residual <= tolerance)


def _check_start(start: ArrayLike, y: tf.Tensor) -> tf.Tensor:
    start = tf.cast(tf.convert_to_tensor(start), y.dtype)
    if not start.shape.is_compatible_with(y.shape):
        raise ValueError(
            f"start must have the shape of y, {tuple(y.shape)}, got {tuple(start.shape)}."
        )
    return tf.ensure_shape(start, y.shape)
