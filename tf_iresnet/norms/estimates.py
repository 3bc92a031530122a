"""Norms estimated from below by the power iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.functions.linear_maps import LinearMap, map_for_kernel
from tf_iresnet.typing import ArrayLike, Seed


class PowerIterationResult(NamedTuple):
    """The largest singular value found, its left vector u and its right vector v."""

    sigma: tf.Tensor
    u: tf.Tensor
    v: tf.Tensor


def unit(x: tf.Tensor) -> tf.Tensor:
    """Scales x to length one; a vector of zeros stays zero."""
    scale = tf.reduce_max(tf.abs(x))
    safe = tf.where(scale > 0, scale, tf.ones_like(scale))
    x = x / safe  # squares of large or tiny entries would leave the dtype's range
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
        new_u = unit(linear_map.apply(kernel, v))
        u = tf.where(tf.reduce_any(new_u != 0), new_u, u)
        new_v = unit(linear_map.adjoint(kernel, u))
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
    kernel: ArrayLike,
    spatial_shape: Sequence[int] | None = None,
    *,
    padding: str = "same",
    iterations: int = 1000,
    tolerance: float = 1e-4,
    u: ArrayLike | None = None,
    seed: Seed = 0,
) -> PowerIterationResult:
    r"""Estimates the norm of a dense or convolution operator, from below.

    Alternates v <- W^T u and u <- W v, normalised, with the operator W at its true spatial
    size and padding (Gouk et al. 2018), until \|W v - sigma u\| <= tolerance sigma, with
    sigma = u^T W v: some singular value then is that near to sigma, relatively. The estimate
    never exceeds the norm (but for rounding), and may lie below it: see
    `dense_norm_bound` and `conv_norm_bound` for proofs.

    Args:
      kernel: [inputs, outputs], or spatial sizes followed by [inputs, outputs].
      spatial_shape: the input's spatial sizes in pixels; needed for convolutions.
      padding: "same", "valid" or (1-D) "causal"; stride 1.
      iterations: the largest number of steps.
      tolerance: of the residual, relative to sigma, at which to stop.
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
        start = randomness.normal(
            randomness.as_seed(seed), tf.zeros((1, *linear_map.output_shape), kernel.dtype)
        )
    else:
        start = tf.cast(u, kernel.dtype)
        if start.shape.num_elements() != math.prod(linear_map.output_shape):
            raise ValueError(
                f"u must have the output's shape {linear_map.output_shape}, got "
                f"{tuple(start.shape)}."
            )
        start = tf.reshape(start, (1, *linear_map.output_shape))
    left = unit(start)
    right = unit(linear_map.adjoint(kernel, left))
    return converge(linear_map, kernel, left, right, iterations=iterations, tolerance=tolerance)


def unit_scale(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns kernel / s and s, its largest entry: squares of either stay in the dtype's range."""
    scale = tf.reduce_max(tf.abs(kernel))
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    return kernel / scale, scale


def converge(
    linear_map: LinearMap,
    kernel: tf.Tensor,
    u: tf.Tensor,
    v: tf.Tensor,
    *,
    iterations: int,
    tolerance: float,
) -> PowerIterationResult:
    r"""Runs the power iteration from (u, v) until \|W v - sigma u\| <= tolerance sigma.

    Some singular value is then within tolerance sigma of sigma; where it is apart from the others
    by a relative gap, sigma itself is within tolerance^2 / gap. A small change of sigma
    over one step says much less.
    """
    kernel, scale = unit_scale(kernel)

    def measured(u: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image = linear_map.apply(kernel, v)
        sigma = tf.reduce_sum(u * image)
        return tf.norm(image - sigma * u), sigma, u, v

    def unfinished(residual, sigma, u, v):
        return residual > tolerance * sigma

    def step(residual, sigma, u, v):
        return measured(*iterate(linear_map, kernel, u, v, 1))

    u = tf.ensure_shape(u, (1, *linear_map.output_shape))
    v = tf.ensure_shape(v, (1, *linear_map.input_shape))
    # At least one step: the given u may not belong to v.
    start = measured(*iterate(linear_map, kernel, u, v, 1))
    _, sigma, u, v = tf.while_loop(unfinished, step, start, maximum_iterations=iterations - 1)
    return PowerIterationResult(scale * sigma, u, v)


def _sizes(spatial_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if spatial_shape is None else tuple(spatial_shape)
