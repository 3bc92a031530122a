"""Functions whose output holds several parts side by side, along the channels."""

from __future__ import annotations

import tensorflow as tf

from tf_iresnet.functions import enclosures
from tf_iresnet.functions.function import Function, Primitive
from tf_iresnet.functions.pointwise import LipSwish

#: What CLipSwish is divided by; its Lipschitz constant before that is below it, see `CLipSwish`.
SCALE = 1.004


class CLipSwish(Primitive):
    r"""[s(x), s(-x)] / 1.004 with s(x) = x sigmoid(b x) / 1.1 and b = softplus(beta).

    The parameter is (beta,). Since sigmoid(-z) = 1 - sigmoid(z), s(-x) = s(x) - x / 1.1: one
    LipSwish gives both halves.

    Its Lipschitz constant is below 1. With p = 1.1 s'(x) the halves have the slopes p / 1.1 and
    (p - 1) / 1.1, and each entry of x moves two of the output and no others, so the constant is
    the largest sqrt(p^2 + (p - 1)^2) / (1.1 * 1.004). Here p = sigmoid(z) (1 + z (1 - sigmoid(z)))
    of z = b x, which takes all values whatever b > 0 is. p' = 0 where z tanh(z / 2) = 2, at
    z = 2.3993... and its negative, so p runs through [1 - P, P] with P = 1.09983932...; the convex
    p^2 + (p - 1)^2 is largest at the ends, and sqrt(P^2 + (P - 1)^2) = 1.10436154... is below
    1.1 * 1.004 = 1.1044.
    """

    num_parameters = 1
    _halves = LipSwish()

    def linearize(self, parameters, x):
        y, point = self._halves.linearize(parameters, x)
        return tf.concat([y, y - x / 1.1], axis=-1) / SCALE, point

    def enclosed(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.of_elementary(x, y, error)

    def pushforward(self, parameters, point, tangent):
        first = self._halves.pushforward(parameters, point, tangent)
        return tf.concat([first, first - tangent / 1.1], axis=-1) / SCALE

    def pullback(self, parameters, point, cotangent):
        total, second = self._folded(cotangent)
        return self._halves.pullback(parameters, point, total) - second / 1.1

    def gradient(self, parameters, point, upstream, pairs=()):
        total, second = self._folded(upstream)
        local = [(tangent, self._folded(cotangent)[0]) for tangent, cotangent in pairs]
        by_x, by_parameters = self._halves.gradient(parameters, point, total, local)
        return by_x - second / 1.1, by_parameters

    @staticmethod
    def _folded(cotangent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What reaches s, and what reaches -x / 1.1."""
        first, second = tf.split(cotangent / SCALE, 2, axis=-1)
        return first + second, second


class Concatenation(Function):
    """[w_1 x, w_2 h(x)] along the channels: parameters (w, those of h), w of shape [2].

    Its Lipschitz constant is at most sqrt(w_1^2 + (w_2 Lip(h))^2).
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.num_parameters = 1 + function.num_parameters

    def unrounded(self):
        function = self.function.unrounded()
        return self if function is self.function else Concatenation(function)

    def enclosed(self, parameters, x, error):
        weights, *own = parameters
        h, own_error = self.function.enclosed(own, x, error)
        y = tf.concat([weights[0] * x, weights[1] * h], axis=-1)
        return y, enclosures.of_elementary(
            y, y, tf.abs(weights[0]) * error + tf.abs(weights[1]) * own_error
        )

    def linearize(self, parameters, x):
        weights, *own = parameters
        h, point = self.function.linearize(own, x)
        return tf.concat([weights[0] * x, weights[1] * h], axis=-1), (x, h, point)

    def respond(self, parameters, point, tangent):
        weights, *own = parameters
        response, trace = self.function.respond(own, point[2], tangent)
        both = tf.concat([weights[0] * tangent, weights[1] * response], axis=-1)
        return both, (tangent, response, trace)

    def pullback(self, parameters, point, cotangent):
        weights, *own = parameters
        kept, new = self._split(point, cotangent)
        return weights[0] * kept + self.function.pullback(own, point[2], weights[1] * new)

    def gradient(self, parameters, point, upstream, pairs=()):
        weights, *own = parameters
        x, h, inner = point
        kept, new = self._split(point, upstream)
        by_weights = [tf.reduce_sum(kept * x), tf.reduce_sum(new * h)]
        local = []
        for (tangent, response, trace), cotangent in pairs:
            kept_pair, new_pair = self._split(point, cotangent)
            by_weights[0] += tf.reduce_sum(kept_pair * tangent)
            by_weights[1] += tf.reduce_sum(new_pair * response)
            local.append((trace, weights[1] * new_pair))
        by_x, by_own = self.function.gradient(own, inner, weights[1] * new, local)
        return weights[0] * kept + by_x, [tf.stack(by_weights), *by_own]

    @staticmethod
    def _split(point: tuple, cotangent: tf.Tensor) -> list[tf.Tensor]:
        """The parts of a cotangent that belong to x and to h(x)."""
        return tf.split(cotangent, [point[0].shape[-1], point[1].shape[-1]], axis=-1)
