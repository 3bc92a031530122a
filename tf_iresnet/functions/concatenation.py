"""Functions whose output holds several parts side by side, along the channels."""

from __future__ import annotations

import tensorflow as tf

from tf_iresnet.functions import enclosures
from tf_iresnet.functions.function import Function
from tf_iresnet.functions.pointwise import ScaledSwish

#: What `ConcatenatedSwish` is divided by; its Lipschitz constant before that is below it.
SCALE = 1.004


class ConcatenatedSwish(Function):
    r"""[s(x), s(-x)] / 1.004 with s(x) = x sigmoid(b x) / 1.1 and b = softplus(beta).

    The parameter is (beta,). Since sigmoid(-z) = 1 - sigmoid(z), s(-x) = s(x) - x / 1.1: one
    `ScaledSwish` gives both halves.

    Its Lipschitz constant is below 1. With p = 1.1 s'(x) the halves have the slopes p / 1.1 and
    (p - 1) / 1.1, and each entry of x moves two of the output and no others, so the constant is
    the largest sqrt(p^2 + (p - 1)^2) / (1.1 * 1.004). Here p = sigmoid(z) (1 + z (1 - sigmoid(z)))
    of z = b x, which takes all values whatever b > 0 is. p' = 0 where z tanh(z / 2) = 2, at
    z = 2.3993... and its negative, so p runs through [1 - P, P] with P = 1.09983932...; the convex
    p^2 + (p - 1)^2 is largest at the ends, and sqrt(P^2 + (P - 1)^2) = 1.10436154... is below
    1.1 * 1.004 = 1.1044.
    """

    num_parameters = 1
    _halves = ScaledSwish()

    def linearize(self, parameters, x):
        y, residuals = self._halves.linearize(parameters, x)
        return tf.concat([y, y - x / 1.1], axis=-1) / SCALE, residuals

    def enclose(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.bound_elementary(x, y, error)

    def jvp(self, parameters, residuals, tangent):
        first, _ = self._halves.jvp(parameters, residuals, tangent)
        return tf.concat([first, first - tangent / 1.1], axis=-1) / SCALE, tangent

    def vjp(self, parameters, residuals, cotangent):
        total, second = self._reaching(cotangent)
        return self._halves.vjp(parameters, residuals, total) - second / 1.1

    def gradient(self, parameters, residuals, upstream, products=()):
        total, second = self._reaching(upstream)
        local = [(tangent, self._reaching(cotangent)[0]) for tangent, cotangent in products]
        by_x, by_parameters = self._halves.gradient(parameters, residuals, total, local)
        return by_x - second / 1.1, by_parameters

    def take_examples(self, residuals, take):
        return self._halves.take_examples(residuals, take)

    @staticmethod
    def _reaching(cotangent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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

    def enclose(self, parameters, x, error):
        weights, *own = parameters
        h, own_error = self.function.enclose(own, x, error)
        y = tf.concat([weights[0] * x, weights[1] * h], axis=-1)
        return y, enclosures.bound_elementary(
            y, y, tf.abs(weights[0]) * error + tf.abs(weights[1]) * own_error
        )

    def linearize(self, parameters, x):
        weights, *own = parameters
        h, residuals = self.function.linearize(own, x)
        return tf.concat([weights[0] * x, weights[1] * h], axis=-1), (x, h, residuals)

    def jvp(self, parameters, residuals, tangent):
        weights, *own = parameters
        new, tangents = self.function.jvp(own, residuals[2], tangent)
        both = tf.concat([weights[0] * tangent, weights[1] * new], axis=-1)
        return both, (tangent, new, tangents)

    def vjp(self, parameters, residuals, cotangent):
        weights, *own = parameters
        kept, new = self._split(residuals, cotangent)
        return weights[0] * kept + self.function.vjp(own, residuals[2], weights[1] * new)

    def gradient(self, parameters, residuals, upstream, products=()):
        weights, *own = parameters
        x, h, inner = residuals
        kept, new = self._split(residuals, upstream)
        by_weights = [tf.reduce_sum(kept * x), tf.reduce_sum(new * h)]
        local = []
        for (tangent, of_h, tangents), cotangent in products:
            by_tangent, by_h = self._split(residuals, cotangent)
            by_weights[0] += tf.reduce_sum(by_tangent * tangent)
            by_weights[1] += tf.reduce_sum(by_h * of_h)
            local.append((tangents, weights[1] * by_h))
        by_x, by_own = self.function.gradient(own, inner, weights[1] * new, local)
        return weights[0] * kept + by_x, [tf.stack(by_weights), *by_own]

    def take_examples(self, residuals, take):
        x, h, inner = residuals
        taken = self.function.take_examples(inner, take)
        return None if taken is None else (x, h, taken)  # of x and h only the channels count

    @staticmethod
    def _split(residuals: tuple, cotangent: tf.Tensor) -> list[tf.Tensor]:
        """The parts of a cotangent that belong to x and to h(x)."""
        return tf.split(cotangent, [residuals[0].shape[-1], residuals[1].shape[-1]], axis=-1)
