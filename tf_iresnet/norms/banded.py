r"""A convolution's norm at a given size to six digits, proven by a Cholesky factorisation.

Cut into lines along one spatial axis, the operator T is a block Toeplitz matrix with as many
different blocks as taps, and its Gram matrix G = T T^* (on the smaller side) is block
tridiagonal. A Lanczos estimate theta of its largest eigenvalue proves nothing, but it names a
candidate lambda slightly above; lambda I - G is factorised as F F^* with F block bidiagonal, and
with the residual E = lambda I - G - F F^*

    G = lambda I - F F^* - E <= (lambda + \|E\|) I,  so  \|T\|^2 <= lambda + \|E\|,

whatever produced F (verification in the manner of Rump 2006). \|E\| is computed, and widened by
the roundings of its own computation and of G's. A wrong estimate costs tightness, never truth.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from tf_iresnet.norms.dense import EPSILON, dense_matrix, offset, output_size

_MARGINS = (1e-9, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2)  # of lambda above the estimate
_LEAST = 1e-280  # more than underflow can hide; for taps that no pixel uses
_STEPS = 120  # of Lanczos: trained kernels have many nearly equal singular values
_BUDGET = 5e10  # floating-point operations; a second or two
_MOST_BLOCKS = 512  # longer axes gain nothing: their norm is the symbol's supremum


def banded_norm_bound(
    kernel: np.ndarray, spatial_shape: tuple[int, ...], padding: str
) -> float | None:
    """Returns a bound of the norm at a given size, within 1e-6 of it where Lanczos converged.

    Args:
      kernel: spatial sizes, inputs, outputs, in float64.
      spatial_shape: the input's spatial sizes in pixels.
      padding: "same", "valid" or (1-D) "causal".

    Returns:
      A float that is never below the norm, or None if it would take too long or fails.
    """
    scale = float(np.abs(kernel).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    shape, sizes = kernel.shape, spatial_shape
    cost, axis = min((_cost(shape, sizes, padding, a), a) for a in range(len(sizes)))
    if cost > _BUDGET:
        return None
    kernel = np.moveaxis(kernel / scale, axis, 0)
    sizes = (sizes[axis], *sizes[:axis], *sizes[axis + 1 :])
    diagonal, lower, roundings = _gram(kernel, sizes, padding)
    estimate = _lanczos(diagonal, lower)
    # |T|, of the entries' absolute values, by the geometric mean of its row and column sums.
    absolute = np.abs(kernel).sum(axis=tuple(range(len(sizes))))
    widening = 2 * roundings * EPSILON * absolute.sum(0).max() * absolute.sum(1).max()
    for margin in _MARGINS:
        top = estimate * (1 + margin) + _LEAST
        residual = _residual(diagonal, lower, top)
        if residual is not None:
            square = (top + residual + widening) * (1 + 8 * EPSILON)
            return math.nextafter(scale * math.sqrt(square) * (1 + 4 * EPSILON), math.inf)
    return None


def _lines(
    shape: tuple[int, ...], sizes: tuple[int, ...], padding: str, axis: int
) -> tuple[int, int, int, int, bool]:
    """Cuts the operator into lines along an axis.

    Returns:
      The number of lines of the smaller side and the units of each, the same of the other side, and
      whether the inputs are the smaller side.
    """
    rank = len(sizes)
    outputs = [output_size(n, k, padding) for n, k in zip(sizes, shape, strict=False)]
    units_in = math.prod(sizes) // sizes[axis] * shape[rank]
    units_out = math.prod(outputs) // outputs[axis] * shape[rank + 1]
    inputs_smaller = sizes[axis] * units_in <= outputs[axis] * units_out
    if inputs_smaller:
        return sizes[axis], units_in, outputs[axis], units_out, True
    return outputs[axis], units_out, sizes[axis], units_in, False


def _cost(shape: tuple[int, ...], sizes: tuple[int, ...], padding: str, axis: int) -> float:
    lines, units, _, other, _ = _lines(shape, sizes, padding, axis)
    group = min(max(shape[axis] - 1, 1), lines)
    blocks = math.ceil(lines / group)
    if blocks > _MOST_BLOCKS:
        return math.inf
    size = float(group * units)
    factorisation = 2 * blocks * 5 * size**3
    return factorisation + 2 * shape[axis] ** 2 * units**2 * other + 6 * _STEPS * blocks * size**2


def _gram(
    kernel: np.ndarray, sizes: tuple[int, ...], padding: str
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Returns the Gram matrix: diagonal blocks, those below them, and the roundings of an entry."""
    taps, before = kernel.shape[0], offset(kernel.shape[0], padding)
    lines, units, others, width, inputs_smaller = _lines(kernel.shape, sizes, padding, 0)
    maps = [dense_matrix(k, sizes[1:] or None, padding) for k in kernel]
    if not inputs_smaller:
        maps = [m.T for m in maps]
    products = {(s, t): maps[s] @ maps[t].T for s in range(taps) for t in range(taps)}
    group = min(max(taps - 1, 1), lines)

    def tap(line: int, other: int) -> int:
        return (line - other if inputs_smaller else other - line) + before

    def block(rows: range, columns: range) -> np.ndarray:
        total = np.zeros((len(rows), units, len(columns), units))
        for a, row in enumerate(rows):
            for b, column in enumerate(columns):
                for other in range(max(0, row - taps), min(others, row + taps + 1)):
                    pair = tap(row, other), tap(column, other)
                    if pair in products:
                        total[a, :, b] += products[pair]
        return total.reshape(len(rows) * units, len(columns) * units)

    groups = [range(start, min(start + group, lines)) for start in range(0, lines, group)]
    diagonal = [block(rows, rows) for rows in groups]
    lower = [block(rows, columns) for columns, rows in itertools.pairwise(groups)]
    return diagonal, lower, width + taps + 4


def _lanczos(diagonal: list[np.ndarray], lower: list[np.ndarray]) -> float:
    """Estimates the largest eigenvalue, from below but for rounding."""
    ends = np.cumsum([0] + [len(d) for d in diagonal])
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]

    def apply(x: np.ndarray) -> np.ndarray:
        y = np.concatenate([d @ x[part] for d, part in zip(diagonal, parts, strict=True)])
        for below, first, second in zip(lower, parts, parts[1:], strict=False):
            y[second] += below @ x[first]
            y[first] += below.T @ x[second]
        return y

    size = int(ends[-1])
    vector = np.random.default_rng(0).standard_normal(size)
    basis = (vector / np.linalg.norm(vector))[None]
    alphas, betas = [], []
    for _ in range(min(size, _STEPS)):
        image = apply(basis[-1])
        alphas.append(float(image @ basis[-1]))
        for _ in range(2):  # twice is enough to stay orthogonal
            image -= basis.T @ (basis @ image)
        betas.append(float(np.linalg.norm(image)))
        if betas[-1] <= 1e-12 * max(alphas):
            break
        basis = np.concatenate([basis, image[None] / betas[-1]])
    off = betas[: len(alphas) - 1]
    return float(np.linalg.eigvalsh(np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1))[-1])


def _residual(diagonal: list[np.ndarray], lower: list[np.ndarray], top: float) -> float | None:
    """Bounds the norm of top I - G - F F^*, or returns None if there is no such F."""
    rows = np.zeros(len(diagonal) + 1)  # sums of the blocks' norms in each block row
    left = None  # the block of F to the left of the current diagonal one
    for index, block in enumerate(diagonal):
        size = len(block)
        target = top * np.eye(size) - block
        filled = target if left is None else target - left @ left.T
        try:
            factor = np.linalg.cholesky(filled)
        except np.linalg.LinAlgError:
            return None
        square = np.square(factor).sum() + (0.0 if left is None else np.square(left).sum())
        rounding = 4 * (2 * size + 4) * EPSILON
        rows[index] += np.linalg.norm(filled - factor @ factor.T)
        rows[index] += rounding * (square + np.linalg.norm(target) + top * math.sqrt(size))
        if index < len(lower):
            below = -lower[index]
            left = np.linalg.solve(factor, below.T).T
            norms = np.linalg.norm(left) * np.linalg.norm(factor) + np.linalg.norm(below)
            error = np.linalg.norm(below - left @ factor.T) + rounding * norms
            rows[index] += error
            rows[index + 1] += error
    return float(rows.max()) * (1 + 1e-9) if np.isfinite(rows).all() else None
