"""Functions that keep no intermediate result for their gradient: memory for time."""

from __future__ import annotations

import tensorflow as tf

from tf_iresnet.functions import Function


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

    def folded(self, parameters):
        function, parameters = self.function.folded(parameters)
        return Recomputed(function), parameters

    def linearize(self, parameters, x):
        y, point = self.function.linearize(parameters, x)
        return y, (x, point)

    def pullback(self, parameters, point, cotangent):
        return self.function.pullback(parameters, point[1], cotangent)

    def respond(self, parameters, point, tangent):
        response, _ = self.function.respond(parameters, point[1], tangent)
        return response, tangent

    def gradient(self, parameters, point, upstream, pairs=()):
        # Waits for the backward pass, and is no common subexpression of the forward one.
        with tf.control_dependencies([upstream]):
            x = tf.identity(point[0])
        _, again = self.function.linearize(parameters, x)
        traces = [
            (self.function.respond(parameters, again, tangent)[1], cotangent)
            for tangent, cotangent in pairs
        ]
        return self.function.gradient(parameters, again, upstream, traces)
