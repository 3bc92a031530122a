"""The convolutions that a training step can't do without, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_iresnet.functions.linear_maps import LinearMap


def bare_step(
    maps: Sequence[LinearMap], kernels: Sequence[tf.Tensor], x: tf.Tensor, terms: tf.Tensor
) -> tf.Tensor:
    """Run one block's convolutions: no activations, no sums, no power iteration.

    Two passes forward (the value, and the Jacobian times the probe), terms - 1 passes back for
    the series, one pass back for each of two cotangents (that of the value and that of the
    series, which the first activation's second derivative needs), and each layer's kernel
    gradient for both.

    Args:
      maps: the layers' operators, first to last.
      kernels: their kernels.
      x: a batch.
      terms: how many terms the block's series has.

    Returns:
      A scalar that depends on all of them, lest one be optimised away.
    """
    layers = list(zip(maps, kernels, strict=True))

    def forward(x: tf.Tensor) -> list[tf.Tensor]:
        inputs = [x]
        for linear_map, kernel in layers:
            inputs.append(linear_map.apply(kernel, inputs[-1]))
        return inputs

    def backward(cotangent: tf.Tensor) -> tf.Tensor:
        for linear_map, kernel in reversed(layers):
            cotangent = linear_map.adjoint(kernel, cotangent)
        return cotangent

    values, tangents = forward(x), forward(-x)
    _, cotangent = tf.while_loop(
        lambda k, _: k < terms,
        lambda k, cotangent: (k + 1, backward(cotangent)),
        (1, tangents[-1]),
        parallel_iterations=1,
    )
    upstream, total = values[-1], tf.zeros([])
    for index in reversed(range(len(layers))):
        linear_map, kernel = layers[index]
        for at, by in ((values[index], upstream), (tangents[index], cotangent)):
            total += linear_map.kernel_gradient(at, by)[(0,) * len(kernel.shape)]
        upstream = linear_map.adjoint(kernel, upstream)
        cotangent = linear_map.adjoint(kernel, cotangent)
    return total + (upstream + cotangent)[(0,) * x.shape.rank]
