r"""Bounds of a convolution by its symbol A(t) = sum_j K_j exp(i j.t) on a grid of frequencies.

Two theorems, each applied axis by axis, in any mixture.

*Every size.* The zero-padded, VALID or causal operator is a compression of the convolution on
the infinite grid, of norm sup \|A(t)\| over the torus. Along an axis of k taps, Re u^* A v is,
up to a shift of the frequency, a trigonometric polynomial of degree d = (k - 1) / 2, and such a
polynomial at N > 2 d equispaced points has sup \|p\| <= max over the points / cos(pi d / N)
(Ehlich and Zeller 1964).

*A given size.* Let an axis have n inputs, m outputs, k taps and o zeros before the first
input. On a circle of M = max(n + o, m + k - 1 - o) points no tap that leaves the image on one side
comes back into it on the other. So the operator is a compression of the circular
convolution, whose norm is the largest \|A(t)\| over t = 2 pi j / M. Multiplying inputs and
outputs by exp(i theta p), p the pixel, changes no norm and shifts the symbol: the largest
\|A(t + theta)\| is a bound for **every** theta, and the least of these is taken. For a kernel
such as (1, 2, 1) this is the norm itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tf_iresnet.norms.dense import EPSILON, offset, output_size, round_up

SLACK = 0.005  # of the torus bound, over all axes
_FINE = 32  # points that an axis of a given size should at least have


class Grid(NamedTuple):
    """The frequencies 2 pi j / points of one axis.

    The bound is the least over ``shifts`` residues of j of the largest norm over the others,
    times ``factor``.
    """

    points: int
    shifts: int = 1
    factor: float = 1.0


def torus_grid(taps: int, axes: int, slack: float = SLACK) -> Grid:
    """Returns one axis' points for every size, their part of the slack spent.

    Args:
      taps: of the kernel along the axis.
      axes: how many axes share the slack.
      slack: how far the bound may lie above the supremum, relatively.
    """
    degree = (taps - 1) / 2
    if degree == 0:
        return Grid(1)
    points = math.ceil(math.pi * degree / math.acos((1 + slack) ** (-1 / axes)))
    points += points % 2
    return Grid(points, 1, 1 / math.cos(math.pi * degree / points))


def sized_grid(taps: int, size: int, padding: str, axes: int, fine: int = _FINE) -> Grid:
    """Returns one axis' points for a given size.

    Args:
      taps: of the kernel along the axis.
      size: of the input along the axis, in pixels.
      padding: "same", "valid" or "causal".
      axes: how many axes share the slack.
      fine: how many points all shifts together should have at least.
    """
    torus = torus_grid(taps, axes)
    before, after = offset(taps, padding), output_size(size, taps, padding) + taps - 1
    period = max(size + before, after - before)
    if taps == 1 or period > torus.points:  # the image's edges hardly matter
        return torus
    shifts = 2 * math.ceil(fine / (2 * period))  # even: half a step is best for smooth kernels
    return Grid(period * shifts, shifts)


def symbol_bound(kernel: np.ndarray, grids: tuple[Grid, ...]) -> float:
    """Returns a bound of the operator norm from the symbol on a grid.

    Args:
      kernel: spatial sizes, inputs, outputs, in float64.
      grids: one for each spatial axis.

    Returns:
      A float that is never below the norm.
    """
    scale = float(np.abs(kernel).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    kernel = kernel / scale
    norms = _norms(kernel, tuple(grid.points for grid in grids))
    # [others, shifts] of each axis in turn: the largest over all others, the least over shifts.
    split = [part for grid in grids for part in (grid.points // grid.shifts, grid.shifts)]
    norms = norms.reshape(split).max(axis=tuple(range(0, 2 * len(grids), 2)))
    taps, channels = kernel.shape[:-2], kernel.shape[-2:]
    # The roundings of the sum over taps, and of the Gram matrix and its largest eigenvalue, by
    # Frobenius norms: |A|_F^2 <= taps |K|_F^2.
    most = math.prod(taps) * float(np.square(kernel).sum())
    symbol_error = 4 * EPSILON * (sum(taps) + 8) * math.sqrt(most)
    gram_error = 4 * EPSILON * (max(channels) + 16 * min(channels) + 16) * most
    value = math.sqrt(float(norms.min()) ** 2 + gram_error) + symbol_error
    return round_up(scale * value * math.prod(grid.factor for grid in grids), 16)


def _norms(kernel: np.ndarray, points: tuple[int, ...]) -> np.ndarray:
    """Returns the symbol's norm at all frequencies, [*points]."""
    waves = [
        np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(k)) / n)
        for n, k in zip(points, kernel.shape, strict=False)
    ]
    norms = np.empty(points)
    # One frequency of the first axis at a time: the whole symbol of a wide kernel takes
    # gigabytes. A real kernel's symbol at -t is the conjugate of that at t: half will do.
    for frequency in range(points[0] // 2 + 1):
        slab = np.tensordot(waves[0][frequency], kernel, axes=1)
        for axis, wave in enumerate(waves[1:]):
            slab = np.moveaxis(np.tensordot(wave, slab, axes=(1, axis)), 0, axis)
        norms[frequency] = _matrix_norms(slab)
        mirrored = tuple(-np.arange(n) % n for n in points[1:])
        norms[-frequency % points[0]] = (
            norms[frequency][np.ix_(*mirrored)] if mirrored else (norms[frequency])
        )
    return norms


def _matrix_norms(matrices: np.ndarray) -> np.ndarray:
    """Largest singular values of [..., inputs, outputs], by the smaller Gram matrix."""
    adjoint = np.conj(np.swapaxes(matrices, -1, -2))
    wide = matrices.shape[-2] <= matrices.shape[-1]
    gram = matrices @ adjoint if wide else adjoint @ matrices
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[..., -1], 0.0))
