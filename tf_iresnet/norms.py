"""Operator norms of dense and convolution kernels: estimates from below, bounds from above.

Power iteration approaches the norm from below and is used to normalise; only the bounds,
computed from the kernel alone, prove anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.linear_maps import LinearMap, map_for_kernel

_DENSE_ENTRIES = 2**20  # a matrix of this size takes a second to decompose


class PowerIterationResult(NamedTuple):
    """The largest singular value found, its left vector u and its right vector v."""

    sigma: tf.Tensor
    u: tf.Tensor
    v: tf.Tensor


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Scales x to length one; a vector of zeros stays zero."""
    scale = tf.reduce_max(tf.abs(x))
    safe = tf.where(scale > 0, scale, tf.ones_like(scale))
    x = x / safe  # squares of huge or tiny entries would leave the dtype's range
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x)), tf.ones_like(scale) * 1e-30))


def iterate(
    linear_map: LinearMap, kernel: tf.Tensor, u: tf.Tensor, v: tf.Tensor, iterations: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs power iterations on W^T W: u <- W v / |W v|, v <- W^T u / |W^T u|.

    Args:
      linear_map: the operator's shapes.
      kernel: its kernel.
      u: unit vector of the output space, [1, *output_shape].
      v: unit vector of the input space, [1, *input_shape].
      iterations: how many; few are unrolled, many run in a loop on the device.

    Returns:
      The new (u, v). A vector that W sends to zero is kept.
    """

    def step(u: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        new_u = _unit(linear_map.apply(kernel, v))
        u = tf.where(tf.reduce_any(new_u != 0), new_u, u)
        new_v = _unit(linear_map.adjoint(kernel, u))
        return u, tf.where(tf.reduce_any(new_v != 0), new_v, v)

    if iterations <= 4:
        for _ in range(iterations):
            u, v = step(u, v)
        return u, v
    return tf.while_loop(
        lambda u, v: True,
        step,
        (tf.ensure_shape(u, (1, *linear_map.output_shape)), v),
        maximum_iterations=iterations,
    )


def sigma_of(linear_map: LinearMap, kernel: tf.Tensor, u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """Returns sigma = u^T W v, differentiable in the kernel; u and v are constants."""
    u, v = tf.stop_gradient(u), tf.stop_gradient(v)
    return tf.reduce_sum(u * linear_map.apply(kernel, v))


def power_iteration(
    kernel: Any,
    spatial_shape: Sequence[int] | None = None,
    *,
    padding: str = "same",
    iterations: int = 1000,
    tolerance: float = 1e-6,
    u: Any = None,
    seed: Any = 0,
) -> PowerIterationResult:
    """Estimates the norm of a dense or convolution operator, from below.

    Alternates v <- W^T u and u <- W v, normalised, with the operator W at its true spatial
    size and padding (Gouk et al. 2018), until the relative change of sigma = u^T W v over one
    step is below ``tolerance``. The estimate never exceeds the norm (but for rounding), and may
    lie below it: see `dense_norm_bound` and `conv_norm_bound` for proofs.

    Args:
      kernel: [inputs, outputs], or spatial sizes followed by [inputs, outputs].
      spatial_shape: the input's spatial sizes in pixels; needed for convolutions.
      padding: "same", "valid" or (1-D) "causal"; stride 1.
      iterations: the largest number of steps.
      tolerance: relative change of sigma at which to stop.
      u: start in the output space, of the output's event shape; random if None.
      seed: seed of the random start.

    Returns:
      A `PowerIterationResult`: sigma (scalar), u [1, *output], v [1, *input], in the kernel's
      dtype.

    Raises:
      ValueError: if the shapes do not fit or the numbers are out of range.

    Example:
    >>> float(power_iteration(np.diag([3.0, 1.0])).sigma)
    3.0

    Source: Invertible Residual Networks, section 2.1 and appendix; Gouk et al. 2018.
    """
    kernel = tf.convert_to_tensor(kernel)
    if not kernel.dtype.is_floating:
        kernel = tf.cast(kernel, tf.float32)
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}.")
    linear_map = map_for_kernel(tuple(kernel.shape), _sizes(spatial_shape), padding)
    if u is None:
        u = randomness.normal(
            randomness.as_seed(seed), tf.zeros((1, *linear_map.output_shape), kernel.dtype)
        )
    else:
        u = tf.cast(u, kernel.dtype)
        if u.shape.num_elements() != math.prod(linear_map.output_shape):
            raise ValueError(
                f"u must have the output's shape {linear_map.output_shape}, got {tuple(u.shape)}."
            )
        u = tf.reshape(u, (1, *linear_map.output_shape))
    u = _unit(u)
    v = _unit(linear_map.adjoint(kernel, u))
    return converge(linear_map, kernel, u, v, iterations=iterations, tolerance=tolerance)


def converge(
    linear_map: LinearMap,
    kernel: tf.Tensor,
    u: tf.Tensor,
    v: tf.Tensor,
    *,
    iterations: int,
    tolerance: float,
) -> PowerIterationResult:
    """Runs the power iteration from (u, v) until sigma's relative change is below tolerance."""

    def changing(change, sigma, u, v):
        return change > tolerance * sigma

    def step(change, sigma, u, v):
        u, v = iterate(linear_map, kernel, u, v, 1)
        new = sigma_of(linear_map, kernel, u, v)
        return tf.abs(new - sigma), new, u, v

    start = (
        tf.constant(math.inf, kernel.dtype),
        sigma_of(linear_map, kernel, u, v),
        tf.ensure_shape(u, (1, *linear_map.output_shape)),
        tf.ensure_shape(v, (1, *linear_map.input_shape)),
    )
    _, sigma, u, v = tf.while_loop(changing, step, start, maximum_iterations=iterations)
    return PowerIterationResult(sigma, u, v)


def _rounded_up(value: float, operations: int) -> float:
    """Adds what ``operations`` roundings of float64 can have taken away."""
    return math.nextafter(value * (1.0 + 4.0 * operations * np.finfo(np.float64).eps), math.inf)


def _checked(kernel: Any, ranks: tuple[int, ...]) -> np.ndarray:
    kernel = np.asarray(kernel)
    if kernel.ndim not in ranks:
        raise ValueError(f"kernel must have {ranks} axes, got shape {kernel.shape}.")
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise ValueError("kernel holds NaN or infinite values: it has no norm.")
    return kernel


def dense_norm_bound(kernel: Any) -> float:
    """Returns an upper bound of the largest singular value of a matrix.

    The singular value decomposition in float64, widened by its backward error.

    Args:
      kernel: [inputs, outputs], as stored or as cast for compute.

    Returns:
      A float that is never below the norm.

    Raises:
      ValueError: if the kernel is no matrix or not finite.

    Example:
    >>> 3.0 <= dense_norm_bound([[3.0, 0.0], [0.0, 1.0]]) < 3.0 + 1e-9
    True
    """
    kernel = _checked(kernel, (2,))
    scale = float(np.abs(kernel).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    sigma = float(np.linalg.norm(kernel / scale, 2))
    return _rounded_up(scale * sigma, 16 * sum(kernel.shape))


def conv_norm_bound(
    kernel: Any, spatial_shape: Sequence[int] | None = None, *, padding: str = "same"
) -> float:
    r"""Returns an upper bound of a convolution's operator norm, for every size and padding.

    The zero-padded, VALID or causal operator is a compression of the convolution on the
    infinite grid, whose norm is the supremum over the torus of \|A(t)\|, with the symbol
    A(t) = sum_j K_j exp(i j.t). Along an axis of length k, Re u^* A v has degree
    d = (k - 1) / 2, and for a trigonometric polynomial of degree d sampled at N > 2 d
    equispaced points, sup \|p\| <= max over the points / cos(pi d / N) (Ehlich and Zeller
    1964). Applied axis by axis, the maximum over a grid divided by these cosines bounds the
    supremum, and so the operator.

    Args:
      kernel: spatial sizes, inputs, outputs, as Keras stores them; 1 to 3 spatial axes.
      spatial_shape: the input's spatial sizes in pixels, where the operator's dense matrix is
        used if it is small enough; None for a bound that holds at every size and padding.
      padding: "same", "valid" or (1-D) "causal"; matters only with ``spatial_shape``.

    Returns:
      A float that is never below the norm at stride 1.

    Raises:
      ValueError: if the kernel's rank is wrong or it is not finite.

    Example:
    >>> 6.0 <= conv_norm_bound(np.full((3, 1, 1), 2.0)) < 6.01
    True
    """
    kernel = _checked(kernel, (3, 4, 5))
    rank = kernel.ndim - 2
    if spatial_shape is not None and len(spatial_shape) != rank:
        raise ValueError(f"spatial_shape must hold {rank} sizes, got {tuple(spatial_shape)}.")
    any_size = _torus_bound(kernel)
    if spatial_shape is None:
        return any_size
    linear_map = map_for_kernel(kernel.shape, _sizes(spatial_shape), padding)
    entries = math.prod(linear_map.input_shape) * math.prod(linear_map.output_shape)
    if entries > _DENSE_ENTRIES:
        return any_size
    return min(any_size, dense_norm_bound(dense_matrix(kernel, spatial_shape, padding)))


def _torus_bound(kernel: np.ndarray) -> float:
    """Bounds the supremum of the symbol's norm over the torus."""
    rank = kernel.ndim - 2
    scale = float(np.abs(kernel).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    kernel = kernel / scale
    sizes = kernel.shape[:rank]
    points = [1 if k == 1 else 2 ** max(4, math.ceil(math.log2(12 * k))) for k in sizes]
    longest = int(np.argmax(points))
    others = [n for axis, n in enumerate(points) if axis != longest]
    taps = np.arange(sizes[longest])
    largest = 0.0
    # A real kernel's symbol at -t is the conjugate of that at t: half of one axis will do. One
    # frequency of it at a time, since the whole symbol of a wide kernel takes gigabytes.
    for frequency in range(points[longest] // 2 + 1):
        phases = np.exp(-2j * np.pi * frequency * taps / points[longest])
        slab = np.tensordot(phases, kernel, axes=(0, longest))
        symbol = np.fft.fftn(slab, others, axes=range(rank - 1)) if others else slab
        largest = max(largest, float(np.linalg.norm(symbol, 2, axis=(-2, -1)).max()))
    for k, n in zip(sizes, points, strict=True):
        largest /= math.cos(math.pi * (k - 1) / 2 / n)
    roundings = 16 * (sum(kernel.shape[-2:]) + int(np.prod(sizes)) + sum(points))
    return _rounded_up(scale * largest, roundings)


def dense_matrix(
    kernel: Any, spatial_shape: Sequence[int] | None = None, padding: str = "same"
) -> np.ndarray:
    """Writes the operator out as a float64 matrix [inputs, outputs], one row per input unit.

    Meant for small operators: the matrix has (pixels x channels)^2 entries.

    Args:
      kernel: a dense or convolution kernel.
      spatial_shape: the input's spatial sizes, for convolutions.
      padding: "same", "valid" or (1-D) "causal".

    Returns:
      The matrix M with vec(y) = vec(x) M.

    Example:
    >>> dense_matrix(np.ones((3, 1, 1)), (2,)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    kernel = np.asarray(kernel, np.float64)
    linear_map = map_for_kernel(kernel.shape, _sizes(spatial_shape), padding)
    if kernel.ndim == 2:
        return kernel
    rank = kernel.ndim - 2
    # Written from the definition, tap by tap, with no convolution operation in it.
    out_shape = linear_map.output_shape
    matrix = np.zeros((*linear_map.input_shape, *out_shape))
    for tap in itertools.product(*(range(k) for k in kernel.shape[:rank])):
        for pixel in itertools.product(*(range(s) for s in out_shape[:rank])):
            source = tuple(
                p + t - _offset(k, padding)
                for p, t, k in zip(pixel, tap, kernel.shape, strict=False)
            )
            if all(0 <= s < n for s, n in zip(source, linear_map.input_shape, strict=False)):
                entries: tuple[Any, ...] = (*source, slice(None), *pixel)
                matrix[entries] += kernel[tap]
    return matrix.reshape(int(np.prod(linear_map.input_shape)), int(np.prod(out_shape)))


def _sizes(spatial_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if spatial_shape is None else tuple(spatial_shape)


def _offset(length: int, padding: str) -> int:
    return {"same": (length - 1) // 2, "valid": 0, "causal": length - 1}[padding]
