"""Any function, differentiated by tapes."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_iresnet.functions.function import Function, Parameters


class Taped(Function):
    """Any function of (parameters, x), differentiated by tapes: slower, but unrestricted."""

    def __init__(
        self, function: Callable[[Parameters, tf.Tensor], tf.Tensor], num_parameters: int
    ) -> None:
        self.function = function
        self.num_parameters = num_parameters

    def __call__(self, parameters, x):
        return self.function(parameters, x)

    def linearize(self, parameters, x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = self.function(parameters, x)
        return y, (tape, x, y)

    def vjp(self, parameters, residuals, cotangent):
        tape, x, y = residuals
        return tape.gradient(y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def jvp(self, parameters, residuals, tangent):
        tape, x, y = residuals
        # J^T c is linear in c, and its gradient against the tangent is J tangent.
        with tf.GradientTape() as outer:
            cotangent = tf.zeros_like(y)
            outer.watch(cotangent)
            pulled = tape.gradient(
                y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        product = outer.gradient(
            pulled, cotangent, tangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return product, tangent

    def gradient(self, parameters, residuals, upstream, products=()):
        x = residuals[1]
        parameters = list(parameters)
        with tf.GradientTape() as outer:
            outer.watch([x, *parameters])
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y = self.function(parameters, x)
            total = tf.reduce_sum(upstream * y)
            for tangent, cotangent in products:
                pulled = inner.gradient(
                    y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                total += tf.reduce_sum(tangent * pulled)
        gradients = outer.gradient(
            total, [x, *parameters], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return gradients[0], gradients[1:]
