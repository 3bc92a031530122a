r"""Proven bounds of many kernels of one shape at once, made of matrix products.

At each frequency of a grid (`tf_iresnet.bounds.symbol`) the symbol A has the Gram matrix
G = A A^*, and \|A\|^2 = \|G\|. With H_0 = G / \|G\|_F and H_{k+1} = H_k^2 / f_{k+1}, f_{k+1} the
Frobenius norm of H_k^2,

    \|H_k\|^2 = f_{k+1} \|H_{k+1}\|,  and  \|H_m\| <= 1,

so m squarings bound \|A\| to a factor of at most r^(1/2^(m+2)) for rank r. The last norm is
bounded by trace and Frobenius norm (Wolkowicz, Styan 1980), which is sharp where all singular
values are equal, too.

*Few products.* G = R + i I is held as the real matrix [[R, -I], [I, R]], of the same norm, and a
square is Z Z^T: \|Z\|^2 = \|Z Z^T\| whether or not rounding left Z symmetric. Each stage leaves
fewer frequencies in doubt. The others keep the bound that they have, which is a proof as well.

*Few pixels.* The symbol's norm is that of the operator without an edge. On a few pixels the
operator itself is a matrix that is small enough.

*Roundings.* All is computed in float32, where processors multiply fastest; in float64 for kernels
of that dtype, and where there is a GPU, since those may round float32 products to TF32. What
rounding can take away is added: with u the unit roundoff, a product of n terms errs by at most
n u times the product of absolute values, so a square of a matrix of Frobenius norm 1 by n u.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_iresnet.bounds.dense import dense_matrix
from tf_iresnet.bounds.symbol import sized_grid
from tf_iresnet.linear_maps import ConvMap, DenseMap, LinearMap

# Squarings, and the share of the frequencies that take part in them.
_STAGES = ((3, 1.0), (3, 0.25))
_STAGES_ALONE = ((6, 1.0),)  # of one matrix
_LEAST = 4  # frequencies of a stage
_CHUNK = 128  # terms of a sum, of which the results are added: fewer roundings in a row
_NARROW, _WRITTEN = 160, 2**18  # units of the narrower side, and entries, of operators as matrices
_MOST = 2**25  # entries of the Gram matrices that are held at once
# Unit roundoff and half of the smallest number above 0.
_ROUNDINGS = {
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
    "float32": (2.0**-24, 2.0**-127),  # subnormal numbers may be flushed to 0
    "float64": (2.0**-53, 2.0**-1023),
}


class _Table(NamedTuple):
    """The frequencies of one shape.

    ``angles`` holds, for each frequency, the phase of each tap, and ``waves`` the cosine and minus
    the sine of the difference for each pair of taps; ``classes`` the frequencies of each shift of
    the grid, any one of which is a proof.
    """

    angles: np.ndarray
    waves: np.ndarray
    classes: np.ndarray
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
    places = np.indices(taps).reshape(len(taps), -1)
    angles = theta @ places
    phases = (angles[:, :, None] - angles[:, None]).reshape(len(angles), -1)
    return _Table(
        angles,
        np.stack([np.cos(phases), -np.sin(phases)]),
        np.array([np.resize(m, longest) for m in members]),
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
    # [count, taps, narrow, wide], the sum of the taps' Frobenius norms being 1.
    inputs, outputs = shape[-2:]
    matrices = tf.reshape(tf.cast(kernels, work), [count, -1, inputs, outputs])
    if inputs > outputs:
        matrices = tf.transpose(matrices, [0, 1, 3, 2])
    largest = _nonzero(tf.reduce_max(tf.abs(matrices), axis=[1, 2, 3]))
    matrices /= largest[:, None, None, None]
    sizes = tf.sqrt(tf.reduce_sum(tf.square(matrices), axis=[2, 3]))
    total = _nonzero(tf.reduce_sum(sizes, axis=1))
    matrices /= total[:, None, None, None]
    if isinstance(linear_map, DenseMap) or math.prod(shape[:-2]) == 1:
        bounds, gradients = _of_matrices(matrices[:, 0])
        gradients = gradients[:, None]
    elif _is_small(linear_map):
        bounds, gradients = _of_operators(linear_map, matrices)
    else:
        table = _table(linear_map)
        each = table.waves.shape[1] * min(inputs, outputs) ** 2
        batch = max(1, min(count, _MOST // each))
        parts = [
            _of_symbols(table, matrices[start : start + batch]) for start in range(0, count, batch)
        ]
        bounds, gradients = (tf.concat(part, axis=0) for part in zip(*parts, strict=True))
    if inputs > outputs:
        gradients = tf.transpose(gradients, [0, 1, 3, 2])
    scale = tf.cast(largest, tf.float64) * tf.cast(total, tf.float64)
    # Two divisions: each entry moves by 2 u of its size, the operator by 2 u of the sum of norms.
    bounds = (bounds + 4 * _unit(work)) * (1 + 1e-12) * scale
    bounds = tf.where(
        tf.reduce_any(kernels != 0, axis=list(range(1, kernels.shape.rank))), bounds, 0
    )
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
    scale = _nonzero(tf.reduce_max(tf.abs(kernels), axis=list(range(1, kernels.shape.rank))))
    scaled = kernels / tf.reshape(scale, [-1] + [1] * len(shape))
    norms = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[-2, -1]))
    norms = tf.reduce_sum(tf.reshape(norms, [kernels.shape[0], -1]), axis=1)
    roundoff = sum(_ROUNDINGS[dtype][0] for dtype in dtypes)
    tiny = sum(_ROUNDINGS[dtype][1] for dtype in dtypes)
    largest = math.prod(shape[:-2]) * math.sqrt(math.prod(shape[-2:]))
    norms, scale = tf.cast(norms, tf.float64), tf.cast(scale, tf.float64)
    return tf.stop_gradient(1.02 * (roundoff * norms * scale + tiny * largest))


def operations(linear_map: LinearMap) -> float:
    """Returns about how many multiplications and additions `norm_bounds` needs for one kernel."""
    if isinstance(linear_map, DenseMap):
        narrow, wide = sorted((linear_map.inputs, linear_map.outputs))
        return _work(narrow, wide, 1, 0, _STAGES_ALONE, 1)
    if _is_small(linear_map):
        narrow, wide = sorted(_units(linear_map))
        return _work(narrow, wide, 1, 0, _STAGES_ALONE, 1)
    taps = math.prod(linear_map.kernel_shape[:-2])
    narrow, wide = sorted(linear_map.kernel_shape[-2:])
    if taps == 1:
        return _work(narrow, wide, 1, 0, _STAGES_ALONE, 1)
    table = _table(linear_map)
    transform = 4.0 * table.waves.shape[1] * table.waves.shape[2] * narrow**2
    return _work(narrow, wide, taps, transform, _STAGES, 8.0 * table.classes.shape[1])


def _work(narrow: int, wide: int, taps: int, transform: float, stages: tuple, each: float) -> float:
    squarings = sum(number * share for number, share in stages)
    return 2.0 * (taps * narrow) ** 2 * wide + transform + each * squarings * 2.0 * narrow**3


def _gpus() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _unit(dtype: tf.DType) -> float:
    return _ROUNDINGS[dtype.name][0]


def _nonzero(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x == 0, tf.ones_like(x), x)


def _of_matrices(matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, narrow, wide]."""
    power = _Power.of(_product(matrices, matrices), copies=1)
    for number, _ in _STAGES_ALONE:
        power = power.squared(number)
    squares = tf.reduce_sum(tf.reduce_sum(tf.square(matrices), axis=2), axis=1)
    error = 1.01 * (_terms(int(matrices.shape[2])) + 4) * _unit(matrices.dtype)
    bounds = tf.sqrt(power.bound() + error * tf.cast(squares, tf.float64))
    gradients = tf.linalg.matmul(power.squared(1).matrix, matrices)
    return bounds, _scaled(gradients, matrices, bounds)


def _units(linear_map: LinearMap) -> tuple[int, int]:
    return math.prod(linear_map.input_shape), math.prod(linear_map.output_shape)


def _is_small(linear_map: LinearMap) -> bool:
    """Whether the operator is written out: on a few pixels its norm is far below the symbol's."""
    narrow, wide = sorted(_units(linear_map))
    return narrow <= _NARROW and narrow * wide <= _WRITTEN


@functools.cache
def _entries(linear_map: ConvMap) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of a kernel stand in its operator.

    Returns:
      The operator [narrow units, wide units], by the flat index of the kernel's entry that each is
      (the kernel's size for zeros); and the flat places of each entry there, [size, most] (the
      operator's size for none).
    """
    shape = linear_map.kernel_shape
    size = math.prod(shape)
    numbers = np.arange(1.0, 1 + size).reshape(shape)
    matrix = dense_matrix(numbers, linear_map.spatial_shape, linear_map.padding)
    entries = np.where(matrix > 0, matrix - 1, size).astype(np.int32)
    inputs, outputs = _units(linear_map)
    entries = entries if inputs <= outputs else entries.T
    order = np.argsort(entries, axis=None, kind="stable")
    starts = np.searchsorted(entries.ravel()[order], np.arange(size + 1))
    most = max(1, int(np.diff(starts).max()))
    slots = starts[:-1, None] + np.arange(most)
    places = np.where(
        slots < starts[1:, None], order[np.minimum(slots, order.size - 1)], order.size
    )
    return entries, places.astype(np.int32)


def _of_operators(linear_map: ConvMap, matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, taps, narrow, wide], from the operators as matrices."""
    inputs, outputs = linear_map.kernel_shape[-2:]
    turned = inputs > outputs  # kernels come with the fewer channels first
    flat = tf.transpose(matrices, [0, 1, 3, 2]) if turned else matrices
    count, size = int(matrices.shape[0]), math.prod(linear_map.kernel_shape)
    entries, places = _entries(linear_map)
    flat = tf.transpose(tf.reshape(flat, [count, size]))
    padded = tf.concat([flat, tf.zeros_like(flat[:1])], axis=0)
    written = tf.transpose(tf.gather(padded, entries), [2, 0, 1])
    bounds, gradients = _of_matrices(written)
    gradients = tf.reshape(gradients, [count, -1])
    gradients = tf.concat([gradients, tf.zeros_like(gradients[:, :1])], axis=1)
    gradients = tf.reduce_sum(tf.gather(gradients, places, axis=1), axis=2)
    gradients = tf.reshape(gradients, [count, -1, inputs, outputs])
    return bounds, tf.transpose(gradients, [0, 1, 3, 2]) if turned else gradients


def _of_symbols(table: _Table, matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds and gradients of [count, taps, narrow, wide]."""
    dtype = matrices.dtype
    count, taps, narrow, wide = map(int, matrices.shape)
    real, imaginary = _grams(table, matrices)
    # Of all shifts of the grid, that whose largest Frobenius norm is least.
    sizes = tf.reduce_sum(tf.square(real) + tf.square(imaginary), axis=[-2, -1])
    classes = tf.constant(table.classes, tf.int32)
    shift = tf.argmin(tf.reduce_max(tf.gather(sizes, classes, axis=1), axis=2), axis=1)
    index = tf.gather(classes, shift)  # [count, frequencies]
    real, imaginary = (tf.gather(part, index, batch_dims=1) for part in (real, imaginary))
    upper = tf.concat([real, -imaginary], axis=-1)
    power = _Power.of(tf.concat([upper, tf.concat([imaginary, real], axis=-1)], axis=-2), copies=2)
    rest = tf.zeros([count], tf.float64)
    for number, share in _STAGES:
        members = int(index.shape[1])
        kept = min(members, max(_LEAST, math.ceil(share * table.classes.shape[1])))
        if kept < members:
            bounds, places = tf.math.top_k(power.bound(), kept + 1)
            rest, places = tf.maximum(rest, bounds[:, kept]), places[:, :kept]
            power, index = power.gathered(places), tf.gather(index, places, batch_dims=1)
        power = power.squared(number)
    bounds = power.bound()
    first = tf.argmax(bounds, axis=1)[:, None]
    error = (_terms(wide) + 2 * taps**2 + 16) * _unit(dtype)
    square = tf.maximum(tf.reduce_max(bounds, axis=1), rest) + error
    bounds = tf.sqrt(square) * table.factor
    # The symbol A at that frequency, its gradient P A with a power P of G, and that of the taps.
    weights = power.gathered(first).squared(1).matrix[:, 0, :, :narrow]
    angles = tf.constant(table.angles, dtype)
    angles = tf.gather(angles, tf.gather(index, first, batch_dims=1)[:, 0])
    waves = tf.stack([tf.cos(angles), -tf.sin(angles)], axis=1)  # [count, 2, taps]
    flat = tf.reshape(matrices, [count, taps, narrow * wide])
    symbol = tf.reshape(tf.linalg.matmul(waves, flat), [count, 2, narrow, wide])
    by_real = tf.linalg.matmul(weights, symbol[:, 0])  # [P_real A; P_imaginary A]
    by_imaginary = tf.linalg.matmul(weights, symbol[:, 1])
    by_symbol = tf.stack(
        [
            by_real[:, :narrow] - by_imaginary[:, narrow:],
            by_real[:, narrow:] + by_imaginary[:, :narrow],
        ],
        axis=1,
    )
    by_symbol = tf.reshape(by_symbol, [count, 2, narrow * wide])
    gradients = tf.reshape(tf.linalg.matmul(waves, by_symbol, transpose_a=True), tf.shape(matrices))
    return bounds, _scaled(gradients, matrices, bounds)


def _scaled(gradients: tf.Tensor, matrices: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """Scales the gradients so that <gradient, kernel> is the bound."""
    axes = list(range(1, matrices.shape.rank))
    products = tf.reduce_sum(gradients * matrices, axis=axes, keepdims=True)
    factor = tf.reshape(tf.cast(bounds, gradients.dtype), tf.shape(products))
    return gradients * tf.math.divide_no_nan(factor, products)


def _grams(table: _Table, matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Real and imaginary parts of the symbol's Gram matrices, [count, frequencies, n, n].

    sum over j, l of K_j K_l^T exp(-i (j - l) t): the products are those of the taps, once for all
    frequencies.
    """
    count, taps, narrow, wide = map(int, matrices.shape)
    rows = tf.reshape(matrices, [count, taps * narrow, wide])
    products = tf.reshape(_product(rows, rows), [count, taps, narrow, taps, narrow])
    products = tf.reshape(tf.transpose(products, [0, 1, 3, 2, 4]), [count, taps**2, narrow**2])
    waves = tf.constant(table.waves.reshape(-1, taps**2), matrices.dtype)
    parts = tf.reshape(tf.linalg.matmul(waves, products), [count, 2, -1, narrow, narrow])
    return parts[:, 0], parts[:, 1]


class _Power(NamedTuple):
    """Powers Z of Gram matrices G, scaled to the Frobenius norm 1.

    ``scales`` holds the Frobenius norms divided by, first that of G, then those of the squares.
    Each eigenvalue of G is one of Z ``copies`` times.
    """

    matrix: tf.Tensor
    scales: tuple[tf.Tensor, ...]
    copies: int

    @classmethod
    def of(cls, grams: tf.Tensor, copies: int, scales: tuple[tf.Tensor, ...] = ()) -> _Power:
        """Scales [..., n, n]."""
        # Row by row, which rounds less often.
        squares = tf.reduce_sum(tf.reduce_sum(tf.square(grams), axis=-1), axis=-1)
        size = tf.sqrt(squares)
        return cls(grams / _nonzero(size)[..., None, None], (*scales, size), copies)

    def squared(self, number: int) -> _Power:
        """Squares so many times."""
        power = self
        for _ in range(number):
            square = _product(power.matrix, power.matrix)
            power = _Power.of(square, self.copies, power.scales)
        return power

    def gathered(self, places: tf.Tensor) -> _Power:
        """The matrices at some places of the second axis, [count, places]."""
        matrix, *scales = (
            tf.gather(part, places, batch_dims=1) for part in (self.matrix, *self.scales)
        )
        return _Power(matrix, tuple(scales), self.copies)

    def bound(self) -> tf.Tensor:
        """Bounds the norms of G, in float64."""
        rows, unit = int(self.matrix.shape[-1]), _unit(self.matrix.dtype)
        size = rows / self.copies
        trace = tf.cast(tf.linalg.trace(self.matrix), tf.float64) / self.copies
        # Real eigenvalues, but for rounding, of which mean and sum of squares are known.
        rounding = (_terms(rows) + 4 * rows + 32) * unit
        spread = tf.maximum(1 / self.copies - trace**2 / size, 0) + 2 * rounding
        bound = tf.abs(trace) / size + tf.sqrt((size - 1) / size * spread) + 2 * rounding
        up = 1 + (2 * rows + 16) * unit  # of a Frobenius norm, and of what is divided by it
        bound = tf.minimum(bound, math.sqrt(1 / self.copies) * up + rounding)
        scales = [tf.cast(scale, tf.float64) * up for scale in self.scales]
        for scale in reversed(scales[1:]):
            bound = tf.sqrt(scale * bound + rounding)
        return scales[0] * bound


def _terms(size: int) -> int:
    """How many roundings an entry of `_product` has, for sums of so many terms."""
    return size if size < 2 * _CHUNK else _CHUNK + math.ceil(size / _CHUNK)


def _product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Matrix products a b^T, whose long sums are made of short ones."""
    size = int(a.shape[-1])
    if size < 2 * _CHUNK:
        return tf.linalg.matmul(a, b, transpose_b=True)
    parts = [slice(start, start + _CHUNK) for start in range(0, size, _CHUNK)]
    return tf.add_n([tf.linalg.matmul(a[..., p], b[..., p], transpose_b=True) for p in parts])
