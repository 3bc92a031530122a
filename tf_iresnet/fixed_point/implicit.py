"""The inverse of x + g(x) as a differentiable function, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_iresnet.batches import event_axes, expand_like
from tf_iresnet.fixed_point.enclosure import block_error
from tf_iresnet.fixed_point.failure import nan_where_failed
from tf_iresnet.fixed_point.result import ConvergenceError, FixedPointResult
from tf_iresnet.fixed_point.solver import Solver, rms
from tf_iresnet.functions import Function, Parameters
from tf_iresnet.functions.rounded_products import are_rounded, where_rounded
from tf_iresnet.typing import ArrayLike


def invert(
    function: Function,
    parameters: Parameters,
    y: tf.Tensor,
    solver: Solver,
    start: ArrayLike | None = None,
    amplification: Callable[[], tf.Tensor] | None = None,
) -> FixedPointResult:
    r"""Solves x + g(x) = y, differentiable in y and the parameters without unrolling.

    With x the solution, the implicit function theorem gives dx = (I + J)^{-1} (dy - dg), so an
    upstream gradient u is pulled back to l = (I + J^T)^{-1} u, itself the solution of
    l + J^T l = u by the same solver; y receives l, and the parameters -l^T dg. The solver's
    tolerances apply to u / RMS(u), so that a gradient's scale does not matter.

    An example that did not converge has no gradient. Where u is not zero for it, eager code raises
    and graphs give NaN, in y and in whatever is summed over the batch; mask it by ``converged``.

    On devices that round float32 products the inverse and the solve of its gradient use
    products of full precision (`tf_iresnet.functions.rounded_products`); J at x and dg do not.

    Args:
      function: the branch g.
      parameters: its parameters.
      y: [batch, ...].
      solver: a `Solver`.
      start: where the solver starts, see `Solver.solve`; the solution does not depend on it.
      amplification: called for 1 / (1 - L), a float64 scalar with L a proven Lipschitz constant
        of g, where ``error_bound`` is wanted; None for none.

    Returns:
      A `FixedPointResult`; only its ``x`` carries a gradient. Its ``error_bound`` is computed by
      `FixedPointResult.bounded`.

    Example:
    >>> from tf_iresnet.fixed_point import Picard
    >>> from tf_iresnet.functions import Affine
    >>> from tf_iresnet.functions.linear_maps import DenseMap
    >>> g, kernel = Affine(DenseMap(1, 1), use_bias=False), tf.constant([[0.5]])
    >>> result = invert(g, [kernel], tf.constant([[3.0]]), Picard())
    >>> round(float(result.x[0, 0]), 4)
    2.0

    Source: Invertible Residual Networks, algorithm 1; for the gradient Bai, Kolter, Koltun 2019
    (Deep Equilibrium Models), theorem 1.
    """
    parameters = list(parameters)
    precise = function.unrounded()
    rounded = None
    if y.dtype == tf.float32 and precise is not function:
        rounded = are_rounded(tf.stop_gradient(y))

    @tf.custom_gradient
    def solve(y, *parameters):
        folded, its_parameters = function.fold(parameters)  # once, outside the loop
        unrounded = folded.unrounded()

        def g(x):
            return where_rounded(
                rounded, lambda yes: (unrounded if yes else folded)(its_parameters, x)
            )

        result = solver.solve(g, y, start)

        def gradient(upstream, *unused):
            upstream = _refuse_failed(upstream, result.converged)
            _, residuals = function.linearize(parameters, result.x)
            scale = expand_like(rms(upstream), y)
            scale = tf.where(scale > 0, scale, tf.ones_like(scale))

            def pull(cotangent):
                return where_rounded(
                    rounded,
                    lambda yes: (precise if yes else function).vjp(
                        parameters, residuals, cotangent
                    ),
                )

            pulled = scale * solver.solve(pull, upstream / scale).checked(
                lambda: "This is the linear solve of the inverse's gradient. "
            )
            _, by_parameters = function.gradient(parameters, residuals, -pulled)
            return (pulled, *by_parameters)

        return tuple(result[:4]), gradient

    found = FixedPointResult(*solve(y, *parameters))
    if amplification is None:
        return found

    def error() -> tf.Tensor:
        return block_error(function, parameters, found.x, y, amplification())

    return found._replace(error_bound=error)


def _refuse_failed(upstream: tf.Tensor, converged: tf.Tensor) -> tf.Tensor:
    """Refuses gradients of examples that did not converge: by an error, or in graphs by NaN."""
    asked = tf.reduce_any(upstream != 0, axis=event_axes(upstream))
    sound = converged | ~asked
    if tf.executing_eagerly() and not bool(tf.reduce_all(sound)):
        failed = int(tf.reduce_sum(tf.cast(~sound, tf.int32)))
        raise ConvergenceError(
            f"the linear solve of the inverse's gradient has no point at {failed} of "
            f"{sound.shape[0]} examples: their inverse did not converge. Leave them out of what "
            "is differentiated, by the result's converged: tf.where(converged, loss, 0)."
        )
    return nan_where_failed(upstream, sound)
