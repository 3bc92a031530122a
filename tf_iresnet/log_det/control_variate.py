r"""A control variate of the first two terms of a branch's log-determinant.

A branch g = A_n . phi . ... . A_1 . phi has the Jacobian J = A D at a point, D the slopes of its
input activation. Two matrices close to J have known traces:

- A s, each example's slopes D replaced by their mean s: with W_1 and W_3 the taps of the outer
  maps and D_1, D_2 the inner slopes, an entry's way out and back is over one hidden pixel q, so
  tr(A) = sum_q D_1[q]^T (W_2 o N_q) D_2[q] with N_q = sum_{d, c} W_1[d, c, :] W_3[-d, :, c];
- M = sigma K D, where K = W_3 W_2 W_1 leaves the inner slopes out, a convolution of few channels,
  and sigma, a number for each example, stands for them: tr(M) and tr(M^2) are sums over taps.

For a probe v the variate is the error of v^T (J - J^2 / 2) v, with J replaced by
A s + sigma K (D - s) in the first term and by M in the second. Its expectation is zero for any
branch and point, and J^T v = D A^T v, which a series needs anyway, gives all that it needs of
the branch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tf_iresnet import batches
from tf_iresnet.functions import Affine, Chain, Function, Parameters, Pointwise, Residuals
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap, LinearMap
from tf_iresnet.functions.recomputation import Recomputed

_Slices = tuple[slice, ...]


def _reverse(kernel: tf.Tensor) -> tf.Tensor:
    return tf.reverse(kernel, axis=list(range(kernel.shape.rank - 2)))


def _is_plain(linear_map: LinearMap, pointwise: bool) -> bool:
    """Whether a map is dense, or a convolution that keeps the size and has a middle tap."""
    if isinstance(linear_map, DenseMap):
        return True
    taps = linear_map.kernel_shape[:-2]
    return (
        linear_map.padding == "same"
        and linear_map.groups == 1
        and set(linear_map.strides) == set(linear_map.dilation_rate) == {1}
        and all(k % 2 == 1 for k in taps)
        and (not pointwise or set(taps) == {1})
    )


@dataclasses.dataclass(frozen=True)
class LinearizedBranch:
    """A branch of the form above at a point: its kernels and slopes, in a wide dtype.

    Attributes:
      kernels: of the outer maps and, in between, of the pointwise one if there is one.
      spatial_shape: of the hidden pixels; empty for dense maps.
      input_slope: D, of the shape of x; None without an input activation (D = 1).
      slopes: D_1 and, after the pointwise map, D_2.
      pull_inner: v -> A^T v, in the branch's dtype.
    """

    kernels: Sequence[tf.Tensor]
    spatial_shape: tuple[int, ...]
    input_slope: tf.Tensor | None
    slopes: Sequence[tf.Tensor]
    pull_inner: Callable[[tf.Tensor], tf.Tensor]

    def pull(self, pulled: tf.Tensor) -> tf.Tensor:
        """Returns J^T v for A^T v."""
        if self.input_slope is None:
            return pulled
        return tf.cast(self.input_slope, pulled.dtype) * pulled


def linearize_branch(
    function: Function, parameters: Parameters, residuals: Residuals, dtype: tf.DType
) -> LinearizedBranch | None:
    """Returns kernels and slopes of a branch at a point, or None if it has another form."""
    while isinstance(function, Recomputed):
        function, residuals = function.function, residuals[1]
    if not isinstance(function, Chain):
        return None
    maps = [part for part in function.parts if isinstance(part, Affine)]
    first = 0 if function.parts and isinstance(function.parts[0], Affine) else 1
    kinds = [Affine if i % 2 == 0 else Pointwise for i in range(len(function.parts) - first)]
    if (
        len(kinds) not in (3, 5)
        or not all(map(isinstance, function.parts[first:], kinds))
        or not all(map(isinstance, function.parts[:first], [Pointwise]))
        or not all(_is_plain(m.linear_map, 0 < i < len(maps) - 1) for i, m in enumerate(maps))
        or type(maps[0].linear_map) is not type(maps[-1].linear_map)
    ):
        return None
    groups = function.split(parameters)
    kernels = [
        own[0] for part, own in zip(function.parts, groups, strict=True) if isinstance(part, Affine)
    ]
    inner = Chain(function.parts[first:])
    inner_parameters = [p for own in groups[first:] for p in own]
    slopes = [
        tf.cast(part.slope(at), dtype)
        for part, at in zip(function.parts, residuals, strict=True)
        if isinstance(part, Pointwise)
    ]
    outer = maps[0].linear_map
    return LinearizedBranch(
        kernels=[tf.cast(kernel, dtype) for kernel in kernels],
        spatial_shape=outer.spatial_shape if isinstance(outer, ConvMap) else (),
        input_slope=slopes[0] if first else None,
        slopes=slopes[first:],
        pull_inner=lambda v: inner.vjp(inner_parameters, residuals[first:], v),
    )


def _regions(size: int, reach: int) -> Iterator[tuple[slice, slice]]:
    """Yields runs of positions of an axis with the offsets -reach..reach that stay inside it."""
    inside = [(max(-q, -reach) + reach, min(size - 1 - q, reach) + reach + 1) for q in range(size)]
    for (low, high), run in itertools.groupby(range(size), key=inside.__getitem__):
        positions = list(run)
        yield slice(positions[0], positions[-1] + 1), slice(low, high)


def inner_trace(at: LinearizedBranch) -> tf.Tensor:
    """Returns tr(A), [batch]: of the branch's Jacobian without its input activation."""
    first, *inner, last = at.kernels
    rank = len(at.spatial_shape)
    sizes = [min(a, b) for a, b in zip(first.shape[:rank], last.shape[:rank], strict=True)]

    def taps(kernel: tf.Tensor, offsets: _Slices) -> tf.Tensor:
        """The taps at some offsets that both kernels have."""
        spare = [(k - size) // 2 for k, size in zip(kernel.shape[:rank], sizes, strict=True)]
        moved = tuple(slice(s.start + b, s.stop + b) for s, b in zip(offsets, spare, strict=True))
        return kernel[moved]

    back = _reverse(last)
    total = tf.zeros(tf.shape(at.slopes[0])[:1], at.slopes[0].dtype)
    regions = [_regions(n, k // 2) for n, k in zip(at.spatial_shape, sizes, strict=True)]
    for region in itertools.product(*regions):
        pixels = tuple(positions for positions, _ in region)
        offsets = tuple(offset for _, offset in region)
        out, home = taps(first, offsets), taps(back, offsets)
        hidden = [slope[(slice(None), *pixels)] for slope in at.slopes]
        axes = list(range(rank))
        if inner:
            weights = tf.tensordot(out, home, [[*axes, rank], [*axes, rank + 1]])
            weights *= tf.reshape(inner[0], weights.shape)
            total += batches.dot(tf.tensordot(hidden[0], weights, 1), hidden[1])
        else:
            ways = tf.reduce_sum(out * tf.linalg.matrix_transpose(home), axis=[*axes, rank])
            total += tf.reduce_sum(hidden[0] * ways, axis=batches.event_axes(hidden[0]))
    return total


def _composed(at: LinearizedBranch) -> tuple[LinearMap, tf.Tensor]:
    """Returns K, the composition of the maps, and its kernel."""
    first, *inner, last = at.kernels
    rank = len(at.spatial_shape)
    for kernel in inner:
        first = tf.tensordot(first, tf.reshape(kernel, kernel.shape[-2:]), 1)
    if not rank:
        return DenseMap(first.shape[0], last.shape[1]), first @ last
    # Taps compose as polynomials multiply: a correlation with the reversed taps, zeros around.
    around = [[k - 1, k - 1] for k in last.shape[:rank]]
    padded = tf.pad(first, [*around, [0, 0], [0, 0]])
    images = tf.transpose(padded, [rank, *range(rank), rank + 1])
    composition = ConvMap(tuple(images.shape[1:-1]), tuple(last.shape), "valid")
    kernel = composition.apply(_reverse(last), images)
    kernel = tf.transpose(kernel, [*range(1, rank + 1), 0, rank + 1])
    return ConvMap(at.spatial_shape, tuple(kernel.shape), "same"), kernel


def _mean_slope(at: LinearizedBranch) -> tf.Tensor:
    """Returns sigma, [batch]: the product of the inner slopes' means.

    A hidden channel counts by the squared weight of the ways through it, a pixel by the mean
    square of its input slopes.
    """
    first, *inner, last = at.kernels
    rank = len(at.spatial_shape)
    into = tf.reduce_sum(first**2, axis=list(range(rank + 1)))
    onto = tf.reduce_sum(last**2, axis=[*range(rank), rank + 1])
    if inner:
        squares = tf.reshape(inner[0], inner[0].shape[-2:]) ** 2
        importance = [
            into * tf.linalg.matvec(squares, onto),
            onto * tf.linalg.matvec(squares, into, transpose_a=True),
        ]
    else:
        importance = [into * onto]
    sigma: tf.Tensor = 1.0
    for slope, channels in zip(at.slopes, importance, strict=True):
        pixels = tf.ones_like(slope[..., 0])
        if at.input_slope is not None:
            pixels = tf.reduce_mean(at.input_slope**2, axis=-1)
        axes = batches.event_axes(pixels)
        weighted = tf.reduce_sum(pixels * tf.linalg.matvec(slope, channels), axis=axes)
        weight = tf.reduce_sum(pixels, axis=axes) * tf.reduce_sum(channels)
        sigma *= tf.math.divide_no_nan(weighted, weight)
    return sigma


def control_variate(at: LinearizedBranch, probe: tf.Tensor, pulled: tf.Tensor) -> tf.Tensor:
    """Returns the variate: a number per example of expectation zero over the probes.

    Args:
      at: the branch at the point.
      probe: v, [batch, ...], of independent entries of mean 0 and variance 1.
      pulled: A^T v, of the same shape, where J = A D.

    Returns:
      [batch], close to v^T (J - J^2 / 2) v less its expectation.
    """
    slope = tf.ones_like(probe) if at.input_slope is None else at.input_slope
    shared = tf.reduce_mean(slope, axis=batches.event_axes(slope))
    rest = slope - batches.expand_like(shared, slope)
    value = shared * (batches.dot(probe, pulled) - inner_trace(at))

    linear_map, kernel = _composed(at)
    sigma = _mean_slope(at)
    back = linear_map.adjoint(kernel, probe)
    diagonal = tf.linalg.diag_part(kernel[tuple(k // 2 for k in kernel.shape[:-2])])
    value += sigma * batches.dot(rest, probe * back - diagonal)

    there = linear_map.apply(kernel, slope * probe)
    round_trip = kernel * tf.linalg.matrix_transpose(_reverse(kernel))
    squares = batches.dot(slope, linear_map.apply(round_trip, slope))
    return value - sigma**2 * (batches.dot(slope * back, there) - squares) / 2
