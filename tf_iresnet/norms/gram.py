r"""Proven bounds of many kernels of one shape at once, made of matrix products.

At each frequency of a grid (`tf_iresnet.norms.symbol`) the symbol A has the Gram matrix
G = A A^*, and \|A\|^2 = \|G\|. With H_0 = G / \|G\|_F and H_{k+1} = H_k^2 / f_{k+1}, f_{k+1} the
Frobenius norm of H_k^2,

    \|H_k\|^2 = f_{k+1} \|H_{k+1}\|,  and  \|H_m\| <= 1,

so m squarings bound \|A\| to a factor of at most r^(1/2^(m+2)) for rank r. The last norm is
bounded by trace and Frobenius norm (Wolkowicz, Styan 1980), which is sharp where all singular
values are equal, too.

*Few products.* G is made of the taps' products K_j K_m^T, summed for each difference j - m up to
sign. A square of Z = R + i I is Z Z^* = R R^T + I I^T + i (X - X^T) with X = I R^T, and
\|Z\|^2 = \|Z Z^*\| whether or not rounding left Z Hermitian. Each stage leaves fewer frequencies
in doubt. The others keep the bound that they have, which is a proof as well.

*Few pixels.* The symbol's norm is that of the operator without an edge. On a few pixels the
operator itself is a small matrix, which is bounded directly.

*Roundings.* All is computed in float32, where processors multiply fastest. It is computed in
float64 for kernels of that dtype, and if there is a GPU, since GPUs may round float32 products to
TF32. What rounding can take away is added. With u the unit roundoff, a product of n terms errs by
at most n u times the product of absolute values, so a square of a matrix of Frobenius norm 1 errs
by n u.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_iresnet.batches import event_axes
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap, LinearMap
from tf_iresnet.norms.dense import dense_matrix
from tf_iresnet.norms.powers import (
    ROUNDINGS,
    Power,
    count_roundings,
    nonzero,
    product,
    unit_roundoff,
)
from tf_iresnet.norms.symbol import sized_grid

# Squarings, and the share of the frequencies that take part in them.
_STAGES = ((3, 1.0), (3, 0.25))
_SQUARINGS = 6  # of one matrix
_LEAST = 4  # frequencies of a stage
_NARROW, _WRITTEN = 160, 2**18  # units of the narrower side, and entries, of operators as matrices
_MOST = 2**22  # entries of the Gram matrices that are held at once
_ROWS = 128  # of a product of taps, at least: thin matrices multiply slowly


class _Table(NamedTuple):
    """The frequencies of one shape.

    ``angles``, [shifts, frequencies, taps], holds the phase of each tap: the frequencies of each
    shift of the grid, any one of which is a proof. ``group`` taps are multiplied at once with all
    that follow the first of them. A pair of taps j >= m has one of the differences of taps:
    ``sums``, [differences, pairs], adds up the products of each, the first being that of a tap with
    itself; ``waves``, [2, shifts, frequencies, differences], holds the cosine of its phase and
    minus the sine.
    """

    angles: np.ndarray
    group: int
    sums: np.ndarray
    waves: np.ndarray
    factor: float


@functools.cache
def _table(linear_map: ConvMap) -> _Table:
    taps, sizes = linear_map.kernel_shape[:-2], linear_map.spatial_shape
    axes = zip(taps, sizes, strict=True)
    grids = [sized_grid(k, n, linear_map.padding, len(taps), fine=1) for k, n in axes]
    # Frequencies as integers j of 2 pi j / points. A real kernel's symbol at -j is the conjugate
    # of that at j: one of the two will do.
    points = [grid.points for grid in grids]
    whole = np.indices(points).reshape(len(taps), -1)
    mirrored = [-j % n for j, n in zip(whole, points, strict=True)]
    flat, other = (np.ravel_multi_index(tuple(j), points) for j in (whole, mirrored))
    kept = flat <= other
    shifts = [grid.shifts for grid in grids]
    shift = np.ravel_multi_index(tuple(j % n for j, n in zip(whole, shifts, strict=True)), shifts)[
        kept
    ]
    members = [np.flatnonzero(shift == index) for index in range(math.prod(shifts))]
    longest = max(map(len, members))
    steps = (2 * np.pi / np.array(points))[:, None]
    theta = (whole[:, kept] * steps).T  # [frequencies, axes]
    theta = theta[np.array([np.resize(m, longest) for m in members])]
    places = np.indices(taps).reshape(len(taps), -1)
    count = places.shape[1]
    group = math.ceil(_ROWS / min(linear_map.kernel_shape[-2:]))
    # In the order of `_sums`: a tap, and those that it is multiplied with.
    pairs = [
        (j, m)
        for start in range(0, count, group)
        for j in range(start, count)
        for m in range(start, min(start + group, count))
    ]
    differences = np.array([places[:, j] - places[:, m] for j, m in pairs])
    once = np.array([j >= m for j, m in pairs])
    lags = np.unique(differences[once], axis=0)
    lags = lags[np.argsort(np.any(lags != 0, axis=1), kind="stable")]  # 0 first
    equal = np.all(differences == lags[:, None], axis=2) & once
    phases = theta @ lags.T
    return _Table(
        theta @ places,
        group,
        equal.astype(float),
        np.stack([np.cos(phases), -np.sin(phases)]),
        math.prod(grid.factor for grid in grids),
    )


def norm_bounds(linear_map: LinearMap, kernels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Returns upper bounds of the operators' norms, and their gradients.

    The gradient is u v^T of the leading singular vectors, or a mean of several where they lead by
    little, scaled so that <gradient, kernel> is the bound.

    Args:
      linear_map: a dense map or a convolution of stride 1.
      kernels: [count, *kernel_shape], of any float dtype.

    Returns:
      The bounds, float64 [count], never below the norms, and the gradients, of the kernels' shape
      and dtype; both are constants.

    Example:
    >>> bound, _ = norm_bounds(DenseMap(2, 2), tf.constant([[[3.0, 0.0], [0.0, 1.0]]]))
    >>> 3.0 <= float(bound[0]) < 3.003
    True

    Source: Delattre et al. 2023, Efficient bound of Lipschitz constant for convolutional layers
    by Gram iteration.
    """
    kernels = tf.stop_gradient(tf.convert_to_tensor(kernels))
    work = tf.float64 if kernels.dtype == tf.float64 or _gpus() else tf.float32
    count, shape = int(kernels.shape[0]), tuple(kernels.shape[1:])
    # [count, taps, narrow, wide], the largest entry being 1.
    inputs, outputs = shape[-2:]
    matrices = tf.reshape(tf.cast(kernels, work), [count, -1, inputs, outputs])
    if inputs > outputs:
        matrices = tf.transpose(matrices, [0, 1, 3, 2])
    largest = nonzero(tf.reduce_max(tf.abs(matrices), axis=[1, 2, 3]))
    matrices /= largest[:, None, None, None]
    sizes = tf.sqrt(tf.reduce_sum(tf.reduce_sum(tf.square(matrices), axis=3), axis=2))
    total = 1.01 * tf.reduce_sum(tf.cast(sizes, tf.float64), axis=1)
    if isinstance(linear_map, DenseMap) or _taps(linear_map) == 1:
        bounds, gradients = _of_matrices(matrices[:, 0])
        gradients = gradients[:, None]
    elif _is_matrix(linear_map):
        bounds, gradients = _of_operators(linear_map, matrices)
    else:
        table = _table(linear_map)
        each = 2 * table.waves.shape[2] * min(inputs, outputs) ** 2
        batch = max(1, min(count, _MOST // each))
        parts = [
            _of_symbols(table, matrices[some], total[some])
            for some in (slice(start, start + batch) for start in range(0, count, batch))
        ]
        bounds, gradients = (tf.concat(part, axis=0) for part in zip(*parts, strict=True))
    if inputs > outputs:
        gradients = tf.transpose(gradients, [0, 1, 3, 2])
    # The division moves each entry by u of its size, the operator by u of the sum of norms.
    bounds = (bounds + 2 * unit_roundoff(work) * total) * (1 + 1e-12) * tf.cast(largest, tf.float64)
    bounds = tf.where(tf.reduce_any(kernels != 0, axis=event_axes(kernels)), bounds, 0)
    return bounds, tf.cast(tf.reshape(gradients, tf.shape(kernels)), kernels.dtype)


def rounding_bound(kernels: tf.Tensor, *dtypes: str) -> tf.Tensor:
    """Bounds by how much the operators' norms grow when kernels are rounded.

    A tap's matrix K_t moves by at most the unit roundoff times |K_t|_F, and the operator by at
    most the sum over taps.

    Args:
      kernels: [count, *kernel_shape], before they are scaled by a factor of at most 1.
      *dtypes: one for each rounding.

    Returns:
      Float64 [count], a constant.
    """
    shape = kernels.shape[1:]
    if kernels.dtype.size < 4:  # too narrow for sums
        kernels = tf.cast(kernels, tf.float32)
    scale = nonzero(tf.reduce_max(tf.abs(kernels), axis=event_axes(kernels)))
    scaled = kernels / tf.reshape(scale, [-1] + [1] * len(shape))
    norms = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[-2, -1]))
    norms = tf.reduce_sum(tf.reshape(norms, [kernels.shape[0], -1]), axis=1)
    roundoff = sum(ROUNDINGS[dtype][0] for dtype in dtypes)
    tiny = sum(ROUNDINGS[dtype][1] for dtype in dtypes)
    largest = math.prod(shape[:-2]) * math.sqrt(math.prod(shape[-2:]))
    norms, scale = tf.cast(norms, tf.float64), tf.cast(scale, tf.float64)
    return tf.stop_gradient(1.02 * (roundoff * norms * scale + tiny * largest))


def side(linear_map: LinearMap) -> int:
    """Returns the size of the matrices that `norm_bounds` squares."""
    return min(_units(linear_map) if _is_matrix(linear_map) else linear_map.kernel_shape[-2:])


def operations(linear_map: LinearMap) -> float:
    """Returns about how many multiplications and additions `norm_bounds` needs for one kernel."""
    if _is_matrix(linear_map):
        narrow, wide = sorted(_units(linear_map))
        return 2.0 * narrow**2 * wide + _SQUARINGS * 2.0 * narrow**3
    narrow, wide = sorted(linear_map.kernel_shape[-2:])
    table = _table(linear_map)
    _, shifts, frequencies, _ = table.waves.shape
    transform = 2.0 * table.waves.size / shifts * narrow**2
    squarings = frequencies * sum(number * share for number, share in _STAGES)
    # Three real products for a complex square.
    return 2.0 * table.sums.shape[1] * narrow**2 * wide + transform + squarings * 6.0 * narrow**3


def _gpus() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _of_matrices(matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, narrow, wide]."""
    power = Power.of((product(matrices, matrices),)).squared(_SQUARINGS)
    squares = tf.reduce_sum(tf.reduce_sum(tf.square(matrices), axis=2), axis=1)
    error = 1.01 * (count_roundings(int(matrices.shape[2])) + 4) * unit_roundoff(matrices.dtype)
    bounds = tf.sqrt(power.bound() + error * tf.cast(squares, tf.float64))
    gradients = tf.linalg.matmul(power.squared(1).parts[0], matrices)
    return bounds, _scaled(gradients, matrices, bounds)


def _taps(linear_map: LinearMap) -> int:
    return math.prod(linear_map.kernel_shape[:-2])


def _units(linear_map: LinearMap) -> tuple[int, int]:
    """Inputs and outputs of the operator as a matrix; one tap's is the same for all pixels."""
    if _taps(linear_map) == 1:
        return linear_map.kernel_shape[-2], linear_map.kernel_shape[-1]
    return math.prod(linear_map.input_shape), math.prod(linear_map.output_shape)


def _is_matrix(linear_map: LinearMap) -> bool:
    """Whether it is bounded as one matrix: on a few pixels its norm is far below the symbol's."""
    narrow, wide = sorted(_units(linear_map))
    return _taps(linear_map) == 1 or (narrow <= _NARROW and narrow * wide <= _WRITTEN)


@functools.cache
def _moves(linear_map: ConvMap) -> np.ndarray:
    """Which pixels of the input and the output each tap joins, [input x output pixels, taps]."""
    taps = _taps(linear_map)
    numbers = np.arange(1.0, 1 + taps).reshape(*linear_map.kernel_shape[:-2], 1, 1)
    matrix = dense_matrix(numbers, linear_map.spatial_shape, linear_map.padding)
    return (matrix.reshape(-1, 1) == numbers.reshape(-1)).astype(float)


def _of_operators(linear_map: ConvMap, matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, taps, narrow, wide], from the operators as matrices."""
    count, taps, narrow, wide = map(int, matrices.shape)
    pixels = [math.prod(shape[:-1]) for shape in (linear_map.input_shape, linear_map.output_shape)]
    turned = linear_map.kernel_shape[-2] > linear_map.kernel_shape[-1]
    moves = tf.constant(_moves(linear_map), matrices.dtype)
    written = tf.linalg.matmul(moves, tf.reshape(matrices, [count, taps, narrow * wide]))
    written = tf.reshape(written, [count, *pixels, narrow, wide])
    # Pixels and channels, of the side with the fewer channels first; a norm does not see it.
    order = [0, 2, 3, 1, 4] if turned else [0, 1, 3, 2, 4]
    rows, columns = reversed(pixels) if turned else pixels
    written = tf.reshape(tf.transpose(written, order), [count, rows * narrow, columns * wide])
    tall = rows * narrow > columns * wide
    bounds, gradients = _of_matrices(tf.linalg.matrix_transpose(written) if tall else written)
    gradients = tf.linalg.matrix_transpose(gradients) if tall else gradients
    gradients = tf.reshape(gradients, [count, rows, narrow, columns, wide])
    gradients = tf.transpose(gradients, [0, 3, 1, 2, 4] if turned else [0, 1, 3, 2, 4])
    gradients = tf.reshape(gradients, [count, math.prod(pixels), narrow * wide])
    gradients = tf.linalg.matmul(moves, gradients, transpose_a=True)
    return bounds, tf.reshape(gradients, tf.shape(matrices))


def _of_symbols(
    table: _Table, matrices: tf.Tensor, total: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, taps, narrow, wide], of total Frobenius norms."""
    dtype = matrices.dtype
    count, taps, narrow, wide = map(int, matrices.shape)
    sums = _sums(table, matrices)
    cosines, sines, angles = _of_best_shift(table, sums)
    power = Power.of(_grams(sums, cosines, sines))
    rest = tf.zeros([count], tf.float64)
    for number, share in _STAGES:
        members = int(angles.shape[1])
        kept = min(members, max(_LEAST, math.ceil(share * table.angles.shape[1])))
        if kept < members:
            bounds, places = tf.math.top_k(power.bound(), kept + 1)
            rest, places = tf.maximum(rest, bounds[:, kept]), places[:, :kept]
            power, angles = power.gathered(places), tf.gather(angles, places, batch_dims=1)
        power = power.squared(number)
    bounds = power.bound()
    first = tf.argmax(bounds, axis=1)[:, None]
    error = (count_roundings(wide) + taps + 2 * table.waves.shape[3] + 16) * unit_roundoff(dtype)
    square = tf.maximum(tf.reduce_max(bounds, axis=1), rest) + error * total**2
    bounds = tf.sqrt(square) * table.factor
    # The symbol A at that frequency, its gradient P A with a power P of G, and that of the taps.
    real, imaginary = (part[:, 0] for part in power.gathered(first).squared(1).parts)
    angles = tf.gather(angles, first, batch_dims=1)[:, 0]
    waves = tf.stack([tf.cos(angles), -tf.sin(angles)], axis=1)  # [count, 2, taps]
    flat = tf.reshape(matrices, [count, taps, narrow * wide])
    symbol = tf.reshape(tf.linalg.matmul(waves, flat), [count, 2, narrow, wide])
    by_symbol = tf.stack(
        [
            tf.linalg.matmul(real, symbol[:, 0]) - tf.linalg.matmul(imaginary, symbol[:, 1]),
            tf.linalg.matmul(imaginary, symbol[:, 0]) + tf.linalg.matmul(real, symbol[:, 1]),
        ],
        axis=1,
    )
    by_symbol = tf.reshape(by_symbol, [count, 2, narrow * wide])
    gradients = tf.reshape(tf.linalg.matmul(waves, by_symbol, transpose_a=True), tf.shape(matrices))
    return bounds, _scaled(gradients, matrices, bounds)


def _scaled(gradients: tf.Tensor, matrices: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """Scales the gradients so that <gradient, kernel> is the bound."""
    axes = event_axes(matrices)
    products = tf.reduce_sum(gradients * matrices, axis=axes, keepdims=True)
    factor = tf.reshape(tf.cast(bounds, gradients.dtype), tf.shape(products))
    return gradients * tf.math.divide_no_nan(factor, products)


def _sums(table: _Table, matrices: tf.Tensor) -> tf.Tensor:
    """The sums Q_d of K_j K_m^T over pairs of taps with j - m = d, [count, differences, n, n]."""
    count, taps, narrow, wide = map(int, matrices.shape)
    products = []
    for start in range(0, taps, table.group):
        rows = tf.reshape(matrices[:, start:], [count, -1, wide])
        some = min(table.group, taps - start)
        found = product(rows, rows[:, : some * narrow])
        found = tf.reshape(found, [count, taps - start, narrow, some, narrow])
        found = tf.transpose(found, [0, 1, 3, 2, 4])
        products.append(tf.reshape(found, [count, -1, narrow**2]))
    sums = tf.linalg.matmul(tf.constant(table.sums, matrices.dtype), tf.concat(products, axis=1))
    return tf.reshape(sums, [count, -1, narrow, narrow])


def _of_best_shift(table: _Table, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cosines, minus sines, and angles of a shift, [count, frequencies, ...].

    The shift is the one at which the largest Frobenius norm of the symbol, sqrt(trace G), is least.
    """
    traces = tf.linalg.trace(sums) * tf.constant([1.0] + [2.0] * (sums.shape[1] - 1), sums.dtype)
    parts = [tf.constant(part, sums.dtype) for part in (*table.waves, table.angles)]
    sizes = tf.einsum("sfd,cd->csf", parts[0], traces)
    shift = tf.argmin(tf.reduce_max(sizes, axis=2), axis=1)
    cosines, sines, angles = (tf.gather(part, shift) for part in parts)
    return cosines, sines, angles


def _grams(sums: tf.Tensor, cosines: tf.Tensor, sines: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Real and imaginary parts of the symbol's Gram matrices, [count, frequencies, n, n].

    That is Q_0, and for each other difference cos(d t) (Q_d + Q_d^T) - i sin(d t) (Q_d - Q_d^T).
    """
    count, _, narrow, _ = map(int, sums.shape)
    square, others = sums[:, :1], sums[:, 1:]
    turned = tf.linalg.matrix_transpose(others)
    even, odd = tf.concat([square, others + turned], axis=1), others - turned
    parts = [
        tf.linalg.matmul(wave, tf.reshape(part, [count, -1, narrow**2]))
        for wave, part in ((cosines, even), (sines[:, :, 1:], odd))
    ]
    real, imaginary = (tf.reshape(part, [count, -1, narrow, narrow]) for part in parts)
    return real, imaginary
