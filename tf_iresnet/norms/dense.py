"""Matrices: the norm from singular values, rounded up, and a convolution's matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.typing import ArrayLike

EPSILON = float(np.finfo(np.float64).eps)


def round_up(value: float, operations: float) -> float:
    """Adds what ``operations`` roundings of float64 can have taken away."""
    return math.nextafter(value * (1.0 + 4.0 * operations * EPSILON), math.inf)


def multiply_up(values: Iterable[float]) -> float:
    """Multiplies numbers of at least 0, each product rounded up."""
    total = 1.0
    for value in values:
        exact = total * float(value)
        total = exact if 1.0 in (total, value) or exact == 0 else math.nextafter(exact, math.inf)
    return total


def check_kernel(kernel: ArrayLike, ranks: tuple[int, ...]) -> np.ndarray:
    """Returns a finite kernel of one of some ranks, in float64.

    Raises:
      ValueError: if it is not.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim not in ranks:
        raise ValueError(f"kernel must have {ranks} axes, got shape {kernel.shape}.")
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise ValueError("kernel holds NaN or infinite values: it has no norm.")
    return kernel


def dense_norm_bound(kernel: ArrayLike) -> float:
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

    Source: Golub, Van Loan, Matrix Computations, on the backward error of singular values.
    """
    kernel = check_kernel(kernel, (2,))
    scale = float(np.abs(kernel).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    sigma = float(np.linalg.norm(kernel / scale, 2))
    return round_up(scale * sigma, 16 * sum(kernel.shape))


def dense_matrix(
    kernel: ArrayLike, spatial_shape: Sequence[int] | None = None, padding: str = "same"
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
    sizes = None if spatial_shape is None else tuple(spatial_shape)
    linear_map = map_for_kernel(kernel.shape, sizes, padding)
    if kernel.ndim == 2:
        return kernel
    rank = kernel.ndim - 2
    # Written from the definition, tap by tap, with no convolution operation in it.
    out_shape = linear_map.output_shape
    matrix = np.zeros((*linear_map.input_shape, *out_shape))
    for tap in itertools.product(*(range(k) for k in kernel.shape[:rank])):
        for pixel in itertools.product(*(range(s) for s in out_shape[:rank])):
            source = tuple(
                p + t - offset(k, padding)
                for p, t, k in zip(pixel, tap, kernel.shape, strict=False)
            )
            if all(0 <= s < n for s, n in zip(source, linear_map.input_shape, strict=False)):
                entries: tuple[int | slice, ...] = (*source, slice(None), *pixel)
                matrix[entries] += kernel[tap]
    return matrix.reshape(int(np.prod(linear_map.input_shape)), int(np.prod(out_shape)))


def offset(taps: int, padding: str) -> int:
    """Returns how many zeros stand before the first pixel of an axis."""
    return {"same": (taps - 1) // 2, "valid": 0, "causal": taps - 1}[padding]


def output_size(size: int, taps: int, padding: str) -> int:
    """Returns the length of an axis after the convolution."""
    return size - taps + 1 if padding == "valid" else size
