"""Proven distances between a computed and the exact preimage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_iresnet.fixed_point.result import FixedPointResult
from tf_iresnet.functions import Function, Parameters
from tf_iresnet.functions.enclosures import EPSILON, norm

_MARGIN = 1.0 + 2.0**-30  # for the norms and the few operations on them
# Processors may flush numbers below this to zero, although float32 resolves them.
_SMALLEST = 4.0 * float(np.finfo(np.float32).tiny)


def _wide(*tensors: tf.Tensor) -> list[tf.Tensor]:
    return [tf.cast(tf.stop_gradient(tensor), tf.float64) for tensor in tensors]


def block_error(
    function: Function, parameters: Parameters, x: tf.Tensor, y: tf.Tensor, amplification: tf.Tensor
) -> tf.Tensor:
    r"""Bounds the distance of x to the solution x\* of x\* + g(x\*) = y.

    x + g(x) - y = (x - x\*) + (g(x) - g(x\*)), so \|x - x\*\| <= \|x + g(x) - y\| / (1 - L). The
    residual is evaluated in float64, which is accurate even for \|x\| far above \|y\|. A bound of
    its own roundings is added (`tf_iresnet.functions.enclosures`).

    Args:
      function: the branch g.
      parameters: its parameters, taken to be exact.
      x: [batch, ...].
      y: of the same shape.
      amplification: 1 / (1 - L) of a proven Lipschitz constant L of g.

    Returns:
      A float64 tensor [batch], infinite or NaN where nothing is proven.
    """
    x, y, *parameters = _wide(x, y, *parameters)
    g, error = function.enclose(parameters, x, tf.zeros(tf.shape(x)[:1], tf.float64))
    return residual_error(x + g, y, error + 2 * EPSILON * (norm(x) + norm(g)), amplification)


def residual_error(
    value: tf.Tensor, y: tf.Tensor, error: tf.Tensor, amplification: tf.Tensor
) -> tf.Tensor:
    r"""Bounds \|x - x\*\| by f(x) and f(x\*) = y.

    Args:
      value: f(x) in float64.
      y: in float64.
      error: bounds the Euclidean distance of ``value`` to the exact one, [batch].
      amplification: a Lipschitz constant of the inverse of f.

    Returns:
      A float64 tensor [batch].
    """
    size = math.sqrt(math.prod(y.shape[1:]))
    rest = error + 2 * EPSILON * (norm(value) + norm(y)) + _SMALLEST * size
    return _MARGIN * amplification * (norm(value - y) + rest)


def closed_form(
    formula: Callable[..., tf.Tensor],
    y: tf.Tensor,
    weights: Sequence[tf.Tensor],
    size: Callable[..., tf.Tensor],
) -> FixedPointResult:
    """Returns the result of an inverse by a formula, with a bound of its rounding.

    The bound evaluates the formula a second time, in float64, where the rounding is that of a few
    operations on numbers of a known size.

    Args:
      formula: of (y, *weights), in the dtype of its arguments.
      y: [batch, ...].
      weights: tensors.
      size: of the same arguments; bounds the numbers that the formula adds up, entry by entry.

    Returns:
      A `FixedPointResult` whose ``error_bound`` is a function.
    """
    x = formula(y, *weights)

    def error() -> tf.Tensor:
        arguments = _wide(y, *weights)
        exact = formula(*arguments)
        rounding = 64 * EPSILON * norm(size(*arguments) + tf.abs(exact))
        smallest = _SMALLEST * math.sqrt(math.prod(exact.shape[1:]))
        return _MARGIN * (norm(tf.cast(x, tf.float64) - exact) + rounding + smallest)

    return FixedPointResult.exact(x, error)
