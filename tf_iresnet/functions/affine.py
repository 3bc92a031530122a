"""Linear maps with a bias."""

from __future__ import annotations

import tensorflow as tf

from tf_iresnet import batches
from tf_iresnet.functions import enclosures
from tf_iresnet.functions.function import Function
from tf_iresnet.functions.linear_maps import LinearMap
from tf_iresnet.functions.rounded_products import Unrounded


class Affine(Function):
    """A linear map with kernel and, optionally, bias: parameters (kernel[, bias]).

    The bias is [channels], or [batch, channels] where it differs between examples. In that case
    x may hold several copies of the batch, one after the other, as for a dense Jacobian.
    """

    def __init__(self, linear_map: LinearMap, use_bias: bool) -> None:
        self.linear_map = linear_map
        self.num_parameters = 2 if use_bias else 1
        self._maps: LinearMap | Unrounded = linear_map

    def unrounded(self):
        function = Affine(self.linear_map, self.num_parameters == 2)
        function._maps = Unrounded(self.linear_map)
        return function

    def enclose(self, parameters, x, error):
        y = self(parameters, x)
        kernel, *bias = parameters
        return y, enclosures.bound_affine(kernel, bias[0] if bias else None, x, y, error)

    def linearize(self, parameters, x):
        y = self._maps.apply(parameters[0], x)
        if self.num_parameters == 2:
            bias = parameters[1]
            if bias.shape.rank == 1:
                y = tf.nn.bias_add(y, bias)
            else:
                pixels = [1] * (y.shape.rank - 2)
                y += tf.reshape(batches.tile_like(bias, y), [-1, *pixels, y.shape[-1]])
        return y, x

    def jvp(self, parameters, residuals, tangent):
        return self._maps.apply(parameters[0], tangent), tangent

    def vjp(self, parameters, residuals, cotangent):
        return self._maps.adjoint(parameters[0], cotangent)

    def take_examples(self, residuals, take):
        return ()  # the adjoint is the same at every point

    def gradient(self, parameters, residuals, upstream, products=()):
        kernel = self.linear_map.kernel_gradient(residuals, upstream)
        for tangent, cotangent in products:
            kernel += self.linear_map.kernel_gradient(tangent, cotangent)
        gradients = [kernel]
        if self.num_parameters == 2:
            bias = parameters[1]
            first = 0 if bias.shape.rank == 1 else 1
            total = tf.reduce_sum(upstream, axis=list(range(first, upstream.shape.rank - 1)))
            gradients.append(batches.sum_tiles(total, bias) if first else total)
        return self._maps.adjoint(parameters[0], upstream), gradients
