"""The leading singular vectors of an operator by restarted Lanczos iterations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_iresnet.linear_maps import LinearMap
from tf_iresnet.norms import PowerIterationResult, iterate, sigma_of, unit, unit_scale

_STEPS = 24  # of one cycle: so many vectors are kept
_NOISE = 0.01  # of a start that may be orthogonal to what is sought


def leading_vectors(
    linear_map: LinearMap,
    kernel: tf.Tensor,
    u: tf.Tensor,
    v: tf.Tensor,
    *,
    tolerance: float,
    iterations: int,
) -> PowerIterationResult:
    r"""Returns sigma, u and v with \|W v - sigma u\| <= tolerance sigma and v = W^T u / sigma.

    Some singular value then lies within tolerance sigma of sigma. Each cycle takes the largest
    Ritz value of W^T W in a Krylov space, which costs as much as that many power iterations and
    finds leading singular values that are nearly equal, where those take hundreds. The start is
    stirred a little, so that it may be orthogonal to the leading vector.

    Args:
      linear_map: the operator's shapes.
      kernel: its kernel.
      u: unit vector of the output space, [1, *output_shape].
      v: unit vector of the input space, [1, *input_shape].
      tolerance: of the residual, relative to sigma.
      iterations: how many products W^T W at most, rounded up to whole cycles.

    Returns:
      Estimates from below, never a bound. A kernel of zeros leaves u and v as they are.

    Example:
    >>> from tf_iresnet.linear_maps import DenseMap
    >>> kernel = tf.constant([[3.0, 0.0], [0.0, 1.0]])
    >>> wrong = tf.constant([[0.0, 1.0]])
    >>> result = leading_vectors(
    ...     DenseMap(2, 2), kernel, wrong, wrong, tolerance=1e-4, iterations=10
    ... )
    >>> round(float(result.sigma), 4)
    3.0

    Source: Golub, Van Loan, Matrix Computations, chapter 10.
    """
    # A graph for each shape, not one for a model: that takes many times longer to optimise.
    return _traced(linear_map, tolerance, iterations)(kernel, u, v)


@functools.lru_cache(maxsize=256)
def _traced(linear_map: LinearMap, tolerance: float, iterations: int) -> Callable[..., Any]:
    """The search for one shape as a graph of (kernel, u, v)."""

    def search(kernel: tf.Tensor, u: tf.Tensor, v: tf.Tensor) -> PowerIterationResult:
        kernel, scale = unit_scale(kernel)
        size = math.prod(linear_map.input_shape)
        shape = (1, *linear_map.input_shape)
        noise = tf.random.stateless_normal([size], [0, 0], dtype=kernel.dtype)
        start = tf.reshape(v, [size]) + noise * (_NOISE / math.sqrt(size))

        def gram(x: tf.Tensor) -> tf.Tensor:
            image = linear_map.apply(kernel, tf.reshape(x, shape))
            return tf.reshape(linear_map.adjoint(kernel, image), [size])

        def measured(u: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # u is W v / |W v| and the new v is W^T u / |W^T u|: what is left is W v's error.
            u, v = iterate(linear_map, kernel, u, v, 1)
            sigma = sigma_of(linear_map, kernel, u, v)
            return tf.norm(linear_map.apply(kernel, v) - sigma * u), sigma, u, v

        def unfinished(residual, sigma, u, v):
            return residual > tolerance * sigma

        def cycle(residual, sigma, u, v):
            new = _ritz_vector(gram, tf.reshape(v, [size]), min(_STEPS, size))
            new = tf.where(tf.reduce_any(new != 0), tf.reshape(new, shape), v)
            return measured(u, new)

        first = tf.ensure_shape(u, (1, *linear_map.output_shape)), tf.reshape(unit(start), shape)
        nothing = tf.zeros([], kernel.dtype)
        values = cycle(nothing, nothing, *first)
        cycles = max(1, math.ceil(iterations / _STEPS)) - 1
        _, sigma, new_u, new_v = tf.while_loop(unfinished, cycle, values, maximum_iterations=cycles)
        moved = sigma > 0
        return PowerIterationResult(
            scale * sigma, tf.where(moved, new_u, u), tf.where(moved, new_v, v)
        )

    return tf.function(search, autograph=False)


def _ritz_vector(gram: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns the unit vector of the largest Ritz value after so many steps of Lanczos."""
    size, dtype = int(start.shape[0]), start.dtype
    small = 10 * np.finfo(dtype.as_numpy_dtype).eps

    def step(index, q, basis, projected):
        basis = tf.tensor_scatter_nd_update(basis, [[index]], [q])
        image = gram(q)
        # The whole row of the projected matrix: no harm in what rounding leaves off the band.
        row = tf.linalg.matvec(basis, image)
        projected = tf.tensor_scatter_nd_update(projected, [[index]], [row])
        rest = image
        for _ in range(2):  # twice is enough to stay orthogonal
            rest -= tf.linalg.matvec(basis, tf.linalg.matvec(basis, rest), transpose_a=True)
        # In an invariant subspace nothing but rounding is left.
        rest = tf.where(tf.norm(rest) > small * tf.norm(image), rest, tf.zeros_like(rest))
        return index + 1, unit(rest), basis, projected

    _, _, basis, projected = tf.while_loop(
        lambda *_: True,
        step,
        (0, start, tf.zeros([steps, size], dtype), tf.zeros([steps, steps], dtype)),
        maximum_iterations=steps,
    )
    # Row i holds the products with the vectors up to i: the lower triangle, which `eigh` reads.
    scale = tf.reduce_max(tf.abs(projected))
    _, vectors = tf.linalg.eigh(tf.math.divide_no_nan(projected, scale))
    return unit(tf.linalg.matvec(basis, vectors[:, -1], transpose_a=True))
