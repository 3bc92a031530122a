"""The inverse of x + g(x) as a differentiable function, by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_iresnet.fixed_point.result import FixedPointResult
from tf_iresnet.fixed_point.solver import Solver, rms
from tf_iresnet.functions import Function, Parameters


def invert(
    function: Function,
    parameters: Parameters,
    y: tf.Tensor,
    solver: Solver,
    start: Any = None,
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
      start: where the solver starts, see `Solver.solve`; the solution does not depend on it.

    Returns:
      A `FixedPointResult`; only its ``x`` carries a gradient.
    """

    @tf.custom_gradient
    def solve(y, *parameters):
        folded, its_parameters = function.folded(parameters)  # once, outside of the loop
        result = solver.solve(lambda x: folded(its_parameters, x), y, start)

        def gradient(upstream, *unused):
            _, point = function.linearize(parameters, result.x)
            scale = tf.reshape(rms(upstream), [-1] + [1] * (y.shape.rank - 1))
            scale = tf.where(scale > 0, scale, tf.ones_like(scale))
            pulled = scale * solver.solve(
                lambda c: function.pullback(parameters, point, c), upstream / scale
            ).checked(lambda: "This is the linear solve of the inverse's gradient. ")
            _, by_parameters = function.gradient(parameters, point, -pulled)
            return (pulled, *by_parameters)

        return tuple(result), gradient

    return FixedPointResult(*solve(y, *parameters))
