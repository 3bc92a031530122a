"""Functions that keep no intermediate result for their gradient: memory for time."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_iresnet.functions.function import Function


def after(x: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """Returns x, but not before the others are known.

    TensorFlow's graph optimizer drops control dependencies between operations without side
    effects. So x depends on the others by a condition that never holds and that the optimizer does
    not see through. The gradient passes through unchanged.

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
    """A function that is evaluated a second time, at the same point, for its gradient.

    Between the forward and the backward pass a wide branch holds several tensors of its hidden size
    for every layer; here it holds x alone. The price is one more evaluation and, for a
    log-determinant, one more Jacobian-vector product for each probe.
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

    def take_examples(self, residuals, take):
        taken = self.function.take_examples(residuals[1], take)
        return None if taken is None else (residuals[0], taken)

    def gradient(self, parameters, residuals, upstream, products=()):
        # It waits for the backward pass, and is no common subexpression with the forward pass.
        x = after(residuals[0], upstream)
        _, again = self.function.linearize(parameters, x)
        anew = [
            (self.function.jvp(parameters, again, tangent)[1], cotangent)
            for tangent, cotangent in products
        ]
        by_x, by_parameters = self.function.gradient(parameters, again, upstream, anew)
        # The preceding block's backward pass waits until this one's intermediate results are freed.
        return after(by_x, *by_parameters), by_parameters
