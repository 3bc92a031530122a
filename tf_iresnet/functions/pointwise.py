"""Scalar functions applied to every entry."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_iresnet.functions import enclosures
from tf_iresnet.functions.function import Function, Residuals


class Pointwise(Function):
    """A 1-Lipschitz function applied to every entry: its Jacobian is a diagonal of slopes.

    Its residuals begin with the slopes.
    """

    def enclose(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.bound_elementary(x, y, error)

    def slope(self, residuals: Residuals) -> tf.Tensor:
        """Returns the derivative at every entry."""
        return residuals[0]

    def jvp(self, parameters, residuals, tangent):
        return self.slope(residuals) * tangent, tangent

    def vjp(self, parameters, residuals, cotangent):
        return self.slope(residuals) * cotangent

    def take_examples(self, residuals, take):
        return (take(self.slope(residuals)),)


@tf.custom_gradient
def _composed_softplus(x):
    # TensorFlow has no Softplus in bfloat16 for GPUs. The slope is given since the parts' own is
    # wrong at 0.
    y = tf.maximum(x, 0) + tf.math.log1p(tf.exp(-tf.abs(x)))
    return y, lambda upstream: upstream * tf.sigmoid(x)


def softplus(x: tf.Tensor) -> tf.Tensor:
    """Returns ln(1 + exp(x)), by operations that GPUs have in the dtype of x."""
    return _composed_softplus(x) if x.dtype == tf.bfloat16 else tf.math.softplus(x)


class Elementwise(Pointwise):
    """A smooth scalar function applied to every entry, derivatives by automatic differentiation."""

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor]) -> None:
        self.function = function

    def _derivative(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self.function(x)
        slope = tape.gradient(y, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return y, slope

    def linearize(self, parameters, x):
        y, slope = self._derivative(x)
        return y, (slope, x)

    def _curvature(self, residuals):
        x = residuals[1]
        with tf.GradientTape() as tape:
            tape.watch(x)
            slope = self._derivative(x)[1]
        return tape.gradient(slope, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def gradient(self, parameters, residuals, upstream, products=()):
        gradient = self.slope(residuals) * upstream
        if products:
            total = tf.add_n([tangent * cotangent for tangent, cotangent in products])
            gradient += self._curvature(residuals) * total
        return gradient, []


class Elu(Elementwise):
    """ELU with alpha = 1: x for x > 0, exp(x) - 1 below."""

    def __init__(self) -> None:
        super().__init__(tf.nn.elu)

    def enclose(self, parameters, x, error):
        # tf.nn.elu subtracts 1 from exp(x), whose rounding does not shrink with x.
        y = tf.where(x < 0, tf.math.expm1(tf.minimum(x, 0)), x)
        return y, enclosures.bound_elementary(x, y, error)

    def linearize(self, parameters, x):
        y = tf.nn.elu(x)
        # exp(x) is y + 1 below zero: no second exponential.
        return y, (tf.minimum(y, 0) + 1, y)

    def _curvature(self, residuals):
        slope, y = residuals
        return tf.where(y < 0, slope, tf.zeros_like(slope))


class ScaledSwish(Pointwise):
    """x sigmoid(b x) / 1.1 with b = softplus(beta): parameter (beta,), a scalar."""

    num_parameters = 1

    def linearize(self, parameters, x):
        scaled = softplus(parameters[0]) * x
        gate = tf.sigmoid(scaled)
        y = x * gate
        slope = gate * (1 + scaled * (1 - gate))
        return y / 1.1, (slope / 1.1, x, scaled, gate)

    def gradient(self, parameters, residuals, upstream, products=()):
        slope, x, scaled, gate = residuals
        bell = gate * (1 - gate) / 1.1
        gradient = slope * upstream
        # d phi / d b = x^2 bell, d phi' / d x = b c and d phi' / d b = x c with c as below.
        by_b = tf.reduce_sum(upstream * x * (x * bell))  # x^2 alone may overflow
        if products:
            total = tf.add_n([tangent * cotangent for tangent, cotangent in products])
            weighted = bell * (2 + scaled * (1 - 2 * gate)) * total
            gradient += softplus(parameters[0]) * weighted
            by_b += tf.reduce_sum(x * weighted)
        return gradient, [by_b * tf.sigmoid(parameters[0])]


class Silu(Pointwise):
    """x sigmoid(x): `ScaledSwish` without its scales, which `Chain.fold` moves into the kernels."""

    def enclose(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.bound_elementary(x, y, 1.1 * error)  # its slopes reach 1.0998

    def linearize(self, parameters, x):
        gate = tf.sigmoid(x)
        y = x * gate
        # The slope is gate + x gate (1 - gate).
        return y, (gate + tf.raw_ops.SigmoidGrad(y=gate, dy=x), gate, y)

    def gradient(self, parameters, residuals, upstream, products=()):
        slope, gate, y = residuals
        gradient = slope * upstream
        if products:
            # The second derivative is (1 - gate) (2 slope - y), in few passes and without x:
            # y is kept anyway, as the next layer's input.
            total = tf.add_n([tangent * cotangent for tangent, cotangent in products])
            gradient += (total - gate * total) * (slope - y + slope)
        return gradient, []
