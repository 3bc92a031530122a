"""The leading singular vectors of an operator by restarted Lanczos iterations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_iresnet.functions.linear_maps import LinearMap
from tf_iresnet.norms.estimates import PowerIterationResult, unit, unit_scale

_NOISE = 0.05  # relative, added to a start that may be orthogonal to the leading vector
# Above this residual a start says nothing: a search from a random one takes so many dimensions.
_LOST = 0.1
_DIMENSIONS = 24


def leading_vectors(
    linear_map: LinearMap,
    kernel: tf.Tensor,
    v: tf.Tensor,
    *,
    tolerance: float,
    steps: int,
    rounds: int,
    anew: tf.Tensor | bool = False,
    traced: bool = False,
) -> PowerIterationResult:
    r"""Returns sigma, u and v with \|W^T u - sigma v\| <= tolerance sigma and u = W v / sigma.

    Some singular value then lies within tolerance sigma of sigma. Each round takes the largest
    Ritz value of W^T W in a Krylov space and makes one power iteration; the space costs as much as
    ``steps`` of these and finds leading singular values that are nearly equal, for which power
    iterations take hundreds. A little noise is added to the first round's start, since it may be
    orthogonal to the leading vector. A start with a residual above 10 % belongs to another kernel;
    a search in a large space then comes first.

    Args:
      linear_map: the operator's shapes.
      kernel: its kernel.
      v: unit vector of the input space, [1, *input_shape].
      tolerance: of the residual, relative to sigma.
      steps: dimensions of the Krylov space, at least 1; one alone makes power iterations.
      rounds: how many rounds at most.
      anew: whether to search in a large space first, however good the start; a boolean.
      traced: whether to trace the search in eager code as well; one graph serves all kernels of a
        shape.

    Returns:
      Estimates from below, never a bound. A kernel of zeros leaves v as it is, and u is zero.

    Example:
    >>> from tf_iresnet.functions.linear_maps import DenseMap
    >>> kernel = tf.constant([[3.0, 0.0], [0.0, 1.0]])
    >>> start = tf.constant([[0.6, 0.8]])
    >>> result = leading_vectors(
    ...     DenseMap(2, 2), kernel, start, tolerance=1e-4, steps=2, rounds=9
    ... )
    >>> round(float(result.sigma), 4)
    3.0

    Source: Golub, Van Loan, Matrix Computations, chapter 10.
    """
    if tf.executing_eagerly() and not traced:
        return _search(linear_map, kernel, v, tolerance, steps, rounds, anew)
    # A graph for each shape: one graph for a whole model takes many times longer to optimise.
    search = _traced(linear_map, kernel.shape, kernel.dtype, tolerance, steps, rounds)
    return PowerIterationResult(*search(kernel, v, tf.convert_to_tensor(anew)))


def _search(
    linear_map: LinearMap,
    kernel: tf.Tensor,
    v: tf.Tensor,
    tolerance: float,
    steps: int,
    rounds: int,
    anew: tf.Tensor | bool,
) -> PowerIterationResult:
    shape = (1, *linear_map.input_shape)
    size = math.prod(shape)
    dimensions = min(steps, size)
    kernel, scale = unit_scale(kernel)
    noise = tf.random.stateless_normal(shape, [0, 0], dtype=kernel.dtype)
    noise *= _NOISE / math.sqrt(size)

    def gram(x: tf.Tensor) -> tf.Tensor:
        image = linear_map.apply(kernel, tf.reshape(x, shape))
        return tf.reshape(linear_map.adjoint(kernel, image), [size])

    def measured(index: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image = linear_map.apply(kernel, v)
        sigma, u = tf.norm(image), unit(image)
        following = linear_map.adjoint(kernel, u)  # of the power iteration
        return index, tf.norm(following - sigma * v), sigma, u, v, following

    def unfinished(index, residual, sigma, u, v, following):
        # At least once: v may still be singular although another singular value has overtaken.
        return (index == 0) | (residual > tolerance * sigma)

    def step(index, residual, sigma, u, v, following):
        start = tf.where(index == 0, v + noise, v)
        if dimensions > 1:
            new = tf.reshape(_ritz_vector(gram, unit(tf.reshape(start, [size])), dimensions), shape)
        else:
            new = unit(tf.where(index == 0, start, following))
        return measured(index + 1, tf.where(tf.reduce_any(new != 0), new, v))

    def found_anew() -> tuple[tf.Tensor, ...]:
        start = unit(tf.reshape(v + noise / _NOISE, [size]))
        new = tf.reshape(_ritz_vector(gram, start, min(_DIMENSIONS, size)), shape)
        return measured(tf.constant(0), tf.where(tf.reduce_any(new != 0), new, v))

    v = tf.ensure_shape(v, shape)
    given = measured(tf.constant(0), v)
    _, residual, sigma, *_ = given
    start = tf.cond((residual > _LOST * sigma) | anew, found_anew, lambda: given)
    _, _, sigma, u, v, _ = tf.while_loop(unfinished, step, start, maximum_iterations=rounds)
    return PowerIterationResult(scale * sigma, u, v)


@functools.lru_cache(maxsize=256)
def _traced(
    linear_map: LinearMap,
    kernel_shape: tf.TensorShape,
    dtype: tf.DType,
    tolerance: float,
    steps: int,
    rounds: int,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """The search for one shape as a graph of (kernel, v)."""

    def search(kernel: tf.Tensor, v: tf.Tensor, anew: tf.Tensor) -> PowerIterationResult:
        return _search(linear_map, kernel, v, tolerance, steps, rounds, anew)

    with tf.init_scope():
        return tf.function(
            search,
            autograph=False,
        ).get_concrete_function(
            tf.TensorSpec(kernel_shape, dtype),
            tf.TensorSpec((1, *linear_map.input_shape), dtype),
            tf.TensorSpec((), tf.bool),
        )


def _ritz_vector(gram: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns the image of the largest Ritz vector after so many steps of Lanczos, scaled to 1."""
    size, dtype = int(start.shape[0]), start.dtype
    small = 10 * np.finfo(dtype.as_numpy_dtype).eps

    # In a loop: unrolled, the graphs of a model's many layers take minutes to optimise.
    def step(index, q, basis, images):
        image = gram(q)
        basis = tf.tensor_scatter_nd_update(basis, [[index]], [q])
        images = tf.tensor_scatter_nd_update(images, [[index]], [image])
        rest = image
        for _ in range(2):  # twice is enough to stay orthogonal
            rest -= tf.linalg.matvec(basis, tf.linalg.matvec(basis, rest), transpose_a=True)
        # In an invariant subspace nothing but rounding is left.
        rest = tf.where(tf.norm(rest) > small * tf.norm(image), rest, tf.zeros_like(rest))
        return index + 1, unit(rest), basis, images

    nothing = tf.zeros([steps, size], dtype)
    _, _, basis, images = tf.while_loop(
        lambda *_: True, step, (0, start, nothing, nothing), maximum_iterations=steps
    )
    projected = tf.linalg.matmul(basis, images, transpose_b=True)
    projected = 0.5 * (projected + tf.linalg.matrix_transpose(projected))
    scale = tf.reduce_max(tf.abs(projected))
    sound = tf.math.is_finite(scale) & (scale > 0)
    safe = tf.where(sound, projected / tf.where(sound, scale, 1), tf.eye(steps, dtype=dtype))
    _, weights = tf.linalg.eigh(safe)
    # The images make this a power iteration without another product.
    return unit(tf.linalg.matvec(images, weights[:, -1], transpose_a=True))
