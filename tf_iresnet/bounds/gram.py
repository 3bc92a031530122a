r"""A proven bound as a TensorFlow function, differentiable and made of matrix products.

At each frequency of a grid (`tf_iresnet.bounds.symbol`) the symbol A has the Gram matrix
G = A A^*, and \|A\|^2 = \|G\| <= \|G^p\|_F^(1/p), with p = 2^m reached by m squarings: at most
r^(1/(2p)) too large for rank r. Only the frequency that decides takes part in the gradient, which
tends to u v^*, that of the norm, as p grows.

Everything is computed in float64, where GPUs do not round matrix products to TF32, and widened
by what its roundings can have taken away: a squaring of a matrix of Frobenius norm 1, whose norm
is at least n^(-1/2), errs by a few n units of 2^-53, relatively n^2; for n = 128 all of it is
below 1e-9, far less than r^(1/(2p)).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_iresnet.bounds.dense import EPSILON
from tf_iresnet.bounds.symbol import Grid, sized_grid
from tf_iresnet.linear_maps import DenseMap, LinearMap

_SQUARINGS = 7  # on a grid: 0.3 % for 4 equal singular values, 1 % for 128
_SQUARINGS_ALONE = 8  # of one matrix, where they cost little
_FINE = 16  # points of an axis, all shifts together
_TINY = 1e-300
# Unit roundoff and half of the smallest number above 0.
_ROUNDINGS = {
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
    "float32": (2.0**-24, 2.0**-127),  # subnormal numbers may be flushed to 0
    "float64": (2.0**-53, 2.0**-1023),
}


class _Table(NamedTuple):
    """A grid of frequencies, of which conjugates are left out.

    ``waves`` holds exp(-2 pi i j d / points) of each axis for the frequencies j kept and the
    differences d of two taps; ``differences`` the flat difference of each pair of taps;
    ``classes`` the flat frequencies, one row for each shift.
    """

    points: tuple[int, ...]
    shape: tuple[int, ...]
    waves: tuple[np.ndarray, ...]
    differences: np.ndarray
    classes: np.ndarray
    factor: float


@functools.cache
def _table(grids: tuple[Grid, ...], taps: tuple[int, ...]) -> _Table:
    points = tuple(grid.points for grid in grids)
    shape = (points[0] // 2 + 1, *points[1:])
    frequencies = np.indices(points)
    conjugates = frequencies[0] >= shape[0]
    kept = [np.where(conjugates, -f % n, f) for f, n in zip(frequencies, points, strict=True)]
    flat = np.ravel_multi_index(kept, shape)
    residues = [f % grid.shifts for f, grid in zip(frequencies, grids, strict=True)]
    shift = np.ravel_multi_index(residues, [grid.shifts for grid in grids])
    rows = {tuple(sorted(set(flat[shift == index].tolist()))) for index in range(shift.max() + 1)}
    longest = max(map(len, rows))
    waves = tuple(
        np.exp(-2j * np.pi * np.outer(np.arange(kept), np.arange(1 - k, k)) / n)
        for kept, n, k in zip(shape, points, taps, strict=True)
    )
    places = np.indices(taps).reshape(len(taps), -1)
    pairs = places[:, :, None] - places[:, None, :] + np.reshape(taps, (-1, 1, 1)) - 1
    return _Table(
        points,
        shape,
        waves,
        np.ravel_multi_index(list(pairs), [2 * k - 1 for k in taps]).ravel(),
        np.array([row + row[-1:] * (longest - len(row)) for row in sorted(rows)]),
        math.prod(grid.factor for grid in grids),
    )


def norm_bound(linear_map: LinearMap, kernel: tf.Tensor) -> tf.Tensor:
    """Returns an upper bound of the operator's norm, differentiable in the kernel.

    Args:
      linear_map: a dense map or a convolution of stride 1.
      kernel: its kernel, of any float dtype.

    Returns:
      A scalar of float64 that is never below the norm.

    Example:
    >>> bound = norm_bound(DenseMap(2, 2), tf.constant([[3.0, 0.0], [0.0, 1.0]]))
    >>> 3.0 <= float(bound) < 3.003
    True

    Source: Delattre et al. 2023, Efficient bound of Lipschitz constant for convolutional layers
    by Gram iteration.
    """
    kernel = tf.cast(kernel, tf.float64)
    scale = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(kernel)), _TINY))
    kernel = kernel / scale
    taps = tuple(kernel.shape[:-2])
    symbol_error = gram_error = 0.0
    factor = 1.0
    if isinstance(linear_map, DenseMap) or math.prod(taps) == 1:
        matrix, squarings = tf.reshape(kernel, kernel.shape[-2:]), _SQUARINGS_ALONE
    else:
        pairs = zip(taps, linear_map.spatial_shape, strict=True)
        grids = (sized_grid(k, n, linear_map.padding, len(taps), _FINE) for k, n in pairs)
        table = _table(tuple(grids), taps)
        matrix, squarings, factor = _leading_symbol(table, kernel), _SQUARINGS, table.factor
        # Relative to the kernel, not to the symbol, which taps that fold onto one another on a
        # small image can cancel.
        most = math.prod(taps) * tf.stop_gradient(tf.reduce_sum(tf.square(kernel)))
        symbol_error = 8 * EPSILON * (math.prod(taps) + 8) * tf.sqrt(most)
        gram_error = 16 * EPSILON * (max(kernel.shape[-2:]) + math.prod(taps) + 16) * most
    narrow, wide = min(kernel.shape[-2:]), max(kernel.shape[-2:])
    square = _power_bound(_gram(matrix), squarings)
    square = square * (1 + (64 * (narrow + 16) ** 2 + 8 * narrow * wide) * EPSILON) + gram_error
    return (tf.sqrt(square) + symbol_error) * (factor * (1 + 1e-12)) * scale


def rounding_bound(kernel: tf.Tensor, *dtypes: str) -> tf.Tensor:
    """Bounds by how much the operator's norm grows when a kernel is rounded.

    A tap's matrix K_t moves by at most the unit roundoff times |K_t|_F, and the operator by at
    most the sum over taps.

    Args:
      kernel: the kernel before it is scaled by a factor of at most 1.
      *dtypes: one for each rounding.

    Returns:
      A scalar of float64, differentiable in the kernel.
    """
    squares = tf.square(tf.cast(kernel, tf.float64))
    norms = tf.sqrt(tf.maximum(tf.reduce_sum(squares, axis=[-2, -1]), _TINY))
    roundoff = sum(_ROUNDINGS[dtype][0] for dtype in dtypes)
    tiny = sum(_ROUNDINGS[dtype][1] for dtype in dtypes)
    largest = math.prod(kernel.shape[:-2]) * math.sqrt(math.prod(kernel.shape[-2:]))
    return 1.01 * (roundoff * tf.reduce_sum(norms) + tiny * largest)


def _leading_symbol(table: _Table, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the symbol at the frequency that decides, differentiable in the kernel.

    That is the one of the largest bound within one shift of the grid. Every shift is a proof: a
    coarse look finds the one of a low bound.
    """
    grams = _grams(table, tf.stop_gradient(kernel))
    classes = tf.constant(table.classes)
    coarse = tf.gather(_power_bound(grams, 1), classes)
    members = tf.gather(classes, tf.argmin(tf.reduce_max(coarse, axis=1)))
    fine = _power_bound(tf.gather(grams, members), _SQUARINGS)
    index = tf.gather(members, tf.argmax(fine))
    angles = tf.zeros([1], tf.float64)
    places = _unravel(index, table.shape)
    for place, points, taps in zip(places, table.points, kernel.shape, strict=False):
        step = tf.cast(place, tf.float64) * (-2 * math.pi / points)
        angles = tf.reshape(angles[:, None] + step * tf.range(taps, dtype=tf.float64), [-1])
    flat = tf.reshape(kernel, [-1, math.prod(kernel.shape[-2:])])
    waves = tf.stack([tf.cos(angles), tf.sin(angles)])
    real, imaginary = tf.unstack(tf.linalg.matmul(waves, flat))
    return tf.reshape(tf.complex(real, imaginary), kernel.shape[-2:])


def _grams(table: _Table, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the symbol's Gram matrices (or their conjugates), [frequencies, n, n].

    sum over j, l of K_j K_l^T exp(-i (j - l) t): the products are those of the taps, once for all
    frequencies.
    """
    taps = math.prod(kernel.shape[:-2])
    inputs, outputs = kernel.shape[-2:]
    kernel = tf.reshape(kernel, [taps, inputs, outputs])
    if inputs > outputs:
        kernel = tf.transpose(kernel, [0, 2, 1])
    narrow = min(inputs, outputs)
    rows = tf.reshape(kernel, [taps * narrow, -1])
    products = tf.reshape(tf.linalg.matmul(rows, rows, transpose_b=True), [taps, narrow] * 2)
    products = tf.reshape(tf.transpose(products, [0, 2, 1, 3]), [taps**2, narrow, narrow])
    sizes = [wave.shape[1] for wave in table.waves]
    slab = tf.math.unsorted_segment_sum(products, table.differences, math.prod(sizes))
    slab = tf.reshape(slab, [*sizes, narrow, narrow])
    slab = tf.complex(slab, tf.zeros_like(slab))
    for axis, wave in enumerate(table.waves):
        slab = tf.tensordot(tf.constant(wave), slab, axes=[[1], [axis]])
        order = [*range(1, axis + 1), 0, *range(axis + 1, slab.shape.rank)]
        slab = tf.transpose(slab, order)
    return tf.reshape(slab, [-1, narrow, narrow])


def _unravel(index: tf.Tensor, shape: tuple[int, ...]) -> list[tf.Tensor]:
    places = []
    for size in reversed(shape):
        places.append(index % size)
        index = index // size
    return places[::-1]


def _gram(matrix: tf.Tensor) -> tf.Tensor:
    """The smaller Gram matrix of [inputs, outputs]."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    return tf.linalg.matmul(matrix, matrix, adjoint_a=not wide, adjoint_b=wide)


def _power_bound(grams: tf.Tensor, squarings: int) -> tf.Tensor:
    """Bounds the norms of Hermitian [..., n, n] by those of their powers."""
    log: Any = 0.0
    for step in range(squarings + 1):
        size = tf.sqrt(tf.maximum(_squares(grams), _TINY))
        log += tf.math.log(size) / 2.0**step
        if step < squarings:
            inverse = (1 / size)[..., None, None]
            if grams.dtype.is_complex:
                inverse = tf.complex(inverse, tf.zeros_like(inverse))
            grams = grams * inverse
            grams = tf.linalg.matmul(grams, grams)
    return tf.exp(log)


def _squares(x: tf.Tensor) -> tf.Tensor:
    """Sums the squared absolute values of the last two axes."""
    parts = [tf.math.real(x), tf.math.imag(x)] if x.dtype.is_complex else [x]
    return tf.add_n([tf.reduce_sum(tf.square(part), axis=[-2, -1]) for part in parts])
