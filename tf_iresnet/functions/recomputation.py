"""Functions that keep no intermediate result for their gradient: memory for time."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_iresnet.functions.function import Function


def after(x: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """Returns x, but not before the others are known.

    TensorFlow's graph optimizer drops control dependencies between operations without side
    effects. So x depends on the others by a condition that never holds and that it does not see
    through. Its gradient knows nothing of that.

    Args:
      x: any tensor.
      *others: floating-point tensors, small ones: all their entries are read.

    Returns:
      x, equal in every bit.
    """

    @tf.custom_gradient
    def wait(x):
        beyond = [tf.reduce_any(other > math.inf) for other in others]
        return tf.where(tf.reduce_any(tf.stack(beyond)), tf.zeros_like(x), x), lambda by_x: by_x

    return wait(x)


class Recomputed(Function):
    """A function evaluated anew, at the same point, when its gradient is asked for.

    What a wide branch holds between the forward and the backward pass, several tensors of its
    hidden size for every layer, shrinks to x. The price is one more evaluation and, for a
    log-determinant, one more product J t for each probe.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.num_parameters = function.num_parameters

    def __call__(self, parameters, x):
        @tf.custom_gradient
        def evaluate(x, *parameters):
            def gradient(upstream):
                by_x, by_parameters = self.gradient(parameters, (x, None), upstream)
                return (by_x, *by_parameters)

            return self.function(parameters, x), gradient

        return evaluate(x, *parameters)

    def fold(self, parameters):
        function, parameters = self.function.fold(parameters)
        return Recomputed(function), parameters

    def unrounded(self):
        function = self.function.unrounded()
        return self if function is self.function else Recomputed(function)

    def enclose(self, parameters, x, error):
        return self.function.enclose(parameters, x, error)

    def linearize(self, parameters, x):
        y, residuals = self.function.linearize(parameters, x)
        return y, (x, residuals)

    def vjp(self, parameters, residuals, cotangent):
        return self.function.vjp(parameters, residuals[1], cotangent)

    def jvp(self, parameters, residuals, tangent):
        product, _ = self.function.jvp(parameters, residuals[1], tangent)
        return product, tangent

    def gradient(self, parameters, residuals, upstream, products=()):
        # Waits for the backward pass, and is no common subexpression of the forward one.
        x = after(residuals[0], upstream)
        _, again = self.function.linearize(parameters, x)
        anew = [
            (self.function.jvp(parameters, again, tangent)[1], cotangent)
            for tangent, cotangent in products
        ]
        by_x, by_parameters = self.function.gradient(parameters, again, upstream, anew)
        # The block before waits until the intermediate results of this one are no longer needed.
        return after(by_x, *by_parameters), by_parameters
