"""Bounds of a convolution's norm, of any size and of a given one."""

from __future__ import annotations

from collections.abc import Sequence

from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.norms.banded import banded_norm_bound
from tf_iresnet.norms.dense import check_kernel, dense_norm_bound
from tf_iresnet.norms.symbol import sized_grid, symbol_bound, torus_grid
from tf_iresnet.typing import ArrayLike


def conv_norm_bound(
    kernel: ArrayLike, spatial_shape: Sequence[int] | None = None, *, padding: str = "same"
) -> float:
    r"""Returns an upper bound of a convolution's operator norm at stride 1.

    Without ``spatial_shape`` it holds for every size and padding, and lies within 0.5 % of the
    least such bound, the supremum over the torus of \|A(t)\| with the symbol
    A(t) = sum_j K_j exp(i j.t); what lies between the points of the grid is covered by the
    theorem of Ehlich and Zeller (`tf_iresnet.norms.symbol`). At a given size it is the norm
    itself to about six digits, verified by a block Cholesky factorisation
    (`tf_iresnet.norms.banded`). Where that would take more than a second, it is the least norm of
    several circular convolutions; the operator is a compression of each.

    Args:
      kernel: spatial sizes, inputs, outputs, as Keras stores them; 1 to 3 spatial axes.
      spatial_shape: the input's spatial sizes in pixels; None for a bound that holds at every
        size and padding.
      padding: "same", "valid" or (1-D) "causal"; matters only with ``spatial_shape``.

    Returns:
      A float that is never below the norm; computed in float64, rounded up.

    Raises:
      ValueError: if the kernel's rank is wrong or it is not finite.

    Example:
    >>> kernel = np.reshape([1.0, 2.0, 1.0], (3, 1, 1))
    >>> 4.0 <= conv_norm_bound(kernel) < 4.02
    True
    >>> 3.414213 < conv_norm_bound(kernel, (3,)) < 3.41422  # 2 + sqrt(2)
    True

    Source: Ehlich, Zeller 1964; Sedghi, Gupta, Long 2019 for the symbol; Rump 2006 for the
    verification.
    """
    kernel = check_kernel(kernel, (3, 4, 5))
    rank = kernel.ndim - 2
    if spatial_shape is None:
        return symbol_bound(kernel, tuple(torus_grid(k, rank) for k in kernel.shape[:rank]))
    sizes = tuple(spatial_shape)
    if len(sizes) != rank:
        raise ValueError(f"spatial_shape must hold {rank} sizes, got {sizes}.")
    map_for_kernel(kernel.shape, sizes, padding)  # refuses what has no output
    if all(k == 1 for k in kernel.shape[:rank]):
        return dense_norm_bound(kernel.reshape(kernel.shape[-2:]))
    bound = banded_norm_bound(kernel, sizes, padding)
    if bound is not None:
        return bound
    pairs = zip(kernel.shape, sizes, strict=False)
    return symbol_bound(kernel, tuple(sized_grid(k, n, padding, rank) for k, n in pairs))
