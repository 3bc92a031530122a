r"""Differentiable functions of (parameters, x) with derivatives written out.

A residual branch is evaluated many times at one point: its value, then J v and J^T v for the
terms of a power series, then one gradient of <upstream, g(x)> + sum <c, J t>. A `Function`
offers just these, so that everything that belongs to the point (the activations' slopes) or to
a tangent is computed once. Functions are pure: parameters are arguments, nothing is stored.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_iresnet import enclosures
from tf_iresnet.linear_maps import LinearMap
from tf_iresnet.rounded_products import Unrounded

Parameters = Sequence[tf.Tensor]
Pairs = Sequence[tuple[Any, tf.Tensor]]


class Function(abc.ABC):
    """A function g(parameters, x) of batches, each example mapped by itself."""

    #: How many tensors `parameters` holds.
    num_parameters: int = 0

    def __call__(self, parameters: Parameters, x: tf.Tensor) -> tf.Tensor:
        """Returns g(x)."""
        return self.linearize(parameters, x)[0]

    def folded(self, parameters: Parameters) -> tuple[Function, Parameters]:
        """Returns an equal function and its parameters that are cheaper to differentiate often.

        The new parameters are differentiable functions of the old.
        """
        return self, parameters

    def unrounded(self) -> Function:
        """Returns an equal function whose float32 products no device rounds.

        It takes the same parameters, and its `pullback` the same points. A function that does not
        know its products returns itself.
        """
        return self

    def enclosed(
        self, parameters: Parameters, x: tf.Tensor, error: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns g(x) and a bound of its error, see `tf_iresnet.enclosures`.

        Args:
          parameters: float64, taken to be exact.
          x: float64, [batch, ...].
          error: bounds the Euclidean distance of x to its exact value, [batch].

        Returns:
          g(x), and the bound [batch]: infinite for a function that does not know its roundings.
        """
        del parameters
        return x, tf.fill(tf.shape(error), tf.constant(math.inf, error.dtype))

    @abc.abstractmethod
    def linearize(self, parameters: Parameters, x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """Returns g(x) and what the derivatives at x need."""

    @abc.abstractmethod
    def pullback(self, parameters: Parameters, point: Any, cotangent: tf.Tensor) -> tf.Tensor:
        """Returns J^T cotangent at the linearised point."""

    def of_examples(self, point: Any, rows: tf.Tensor) -> Any:
        """Returns the linearised point of some examples alone.

        Args:
          point: what `linearize` returned second.
          rows: their places in the batch, integers, [n].

        Returns:
          The point for `pullback`; None where it holds something else than a batch of tensors.
        """
        if not all(tf.is_tensor(leaf) for leaf in tf.nest.flatten(point)):
            return None
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), point)

    @abc.abstractmethod
    def respond(
        self, parameters: Parameters, point: Any, tangent: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Returns J tangent at the linearised point, and the trace that `gradient` needs of it."""

    @abc.abstractmethod
    def gradient(
        self, parameters: Parameters, point: Any, upstream: tf.Tensor, pairs: Pairs = ()
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Differentiates <upstream, g(x)> + sum over pairs of <cotangent, J tangent>.

        Args:
          parameters: the parameters of `linearize`.
          point: what `linearize` returned second.
          upstream: constant, of the shape of g(x).
          pairs: constants: the trace of a tangent, and a cotangent of the shape of g(x).

        Returns:
          The gradients with respect to x and to each parameter (summed over the batch, but for
          parameters that have a batch of their own, see `Affine`).
        """


class Primitive(Function):
    """A function that a `Chain` can compose; the trace of a tangent is the tangent itself."""

    @abc.abstractmethod
    def pushforward(self, parameters: Parameters, point: Any, tangent: tf.Tensor) -> tf.Tensor:
        """Returns J tangent at the linearised point."""

    def respond(self, parameters, point, tangent):
        return self.pushforward(parameters, point, tangent), tangent


def per_example(values: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns values [batch, ...] for every example of x, which may hold the batch many times."""
    copies = tf.shape(x)[0] // tf.maximum(tf.shape(values)[0], 1)
    tiled = tf.tile(values, [copies] + [1] * (values.shape.rank - 1))
    return tf.ensure_shape(tiled, [x.shape[0], *values.shape[1:]])


def _sum_of_copies(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The transpose of `per_example`: adds up what belongs to the same example."""
    copies = tf.shape(values)[0] // tf.maximum(tf.shape(like)[0], 1)
    stacked = tf.reshape(values, tf.concat([[copies], tf.shape(like)], axis=0))
    return tf.ensure_shape(tf.reduce_sum(stacked, axis=0), like.shape)


class Affine(Primitive):
    """A linear map with kernel and, optionally, bias: parameters (kernel[, bias]).

    The bias is [channels], or [batch, channels] where it differs between examples. In that case
    x may hold several copies of the batch, one after the other, as for a dense Jacobian.
    """

    def __init__(self, linear_map: LinearMap, use_bias: bool) -> None:
        self.linear_map = linear_map
        self.num_parameters = 2 if use_bias else 1
        self._products: LinearMap | Unrounded = linear_map

    def unrounded(self):
        function = Affine(self.linear_map, self.num_parameters == 2)
        function._products = Unrounded(self.linear_map)
        return function

    def enclosed(self, parameters, x, error):
        y = self(parameters, x)
        kernel, *bias = parameters
        return y, enclosures.of_affine(kernel, bias[0] if bias else None, x, y, error)

    def linearize(self, parameters, x):
        y = self._products.apply(parameters[0], x)
        if self.num_parameters == 2:
            bias = parameters[1]
            if bias.shape.rank == 1:
                y = tf.nn.bias_add(y, bias)
            else:
                pixels = [1] * (y.shape.rank - 2)
                y += tf.reshape(per_example(bias, y), [-1, *pixels, y.shape[-1]])
        return y, x

    def pushforward(self, parameters, point, tangent):
        return self._products.apply(parameters[0], tangent)

    def pullback(self, parameters, point, cotangent):
        return self._products.adjoint(parameters[0], cotangent)

    def gradient(self, parameters, point, upstream, pairs=()):
        kernel = self.linear_map.kernel_gradient(point, upstream)
        for tangent, cotangent in pairs:
            kernel += self.linear_map.kernel_gradient(tangent, cotangent)
        gradients = [kernel]
        if self.num_parameters == 2:
            bias = parameters[1]
            first = 0 if bias.shape.rank == 1 else 1
            total = tf.reduce_sum(upstream, axis=list(range(first, upstream.shape.rank - 1)))
            gradients.append(_sum_of_copies(total, bias) if first else total)
        return self._products.adjoint(parameters[0], upstream), gradients


class Pointwise(Primitive):
    """A 1-Lipschitz function applied to every entry: its Jacobian is a diagonal of slopes."""

    def enclosed(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.of_elementary(x, y, error)

    @abc.abstractmethod
    def slope(self, point: Any) -> tf.Tensor:
        """Returns the derivative at every entry of the linearised point."""

    def pushforward(self, parameters, point, tangent):
        return self.slope(point) * tangent

    pullback = pushforward


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
        return y, (x, slope)

    def slope(self, point):
        return point[1]

    def _curvature(self, point):
        x = point[0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            slope = self._derivative(x)[1]
        return tape.gradient(slope, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def gradient(self, parameters, point, upstream, pairs=()):
        gradient = point[1] * upstream
        if pairs:
            products = tf.add_n([tangent * cotangent for tangent, cotangent in pairs])
            gradient += self._curvature(point) * products
        return gradient, []


class Elu(Elementwise):
    """ELU with alpha = 1: x for x > 0, exp(x) - 1 below."""

    def __init__(self) -> None:
        super().__init__(tf.nn.elu)

    def enclosed(self, parameters, x, error):
        # tf.nn.elu subtracts 1 from exp(x), whose rounding does not shrink with x.
        y = tf.where(x < 0, tf.math.expm1(tf.minimum(x, 0)), x)
        return y, enclosures.of_elementary(x, y, error)

    def linearize(self, parameters, x):
        y = tf.nn.elu(x)
        # exp(x) is y + 1 below zero: no second exponential.
        return y, (y, tf.minimum(y, 0) + 1)

    def _curvature(self, point):
        y, slope = point
        return tf.where(y < 0, slope, tf.zeros_like(slope))


class LipSwish(Pointwise):
    """x sigmoid(b x) / 1.1 with b = softplus(beta): parameter (beta,), a scalar."""

    num_parameters = 1

    def linearize(self, parameters, x):
        scaled = softplus(parameters[0]) * x
        gate = tf.sigmoid(scaled)
        y = x * gate
        slope = gate * (1 + scaled * (1 - gate))
        return y / 1.1, (x, scaled, gate, slope / 1.1)

    def slope(self, point):
        return point[3]

    def gradient(self, parameters, point, upstream, pairs=()):
        x, scaled, gate, slope = point
        bell = gate * (1 - gate) / 1.1
        gradient = slope * upstream
        # d phi / d b = x^2 bell, d phi' / d x = b c and d phi' / d b = x c with c as below.
        by_b = tf.reduce_sum(upstream * x * (x * bell))  # x^2 alone may overflow
        if pairs:
            products = tf.add_n([tangent * cotangent for tangent, cotangent in pairs])
            weighted = bell * (2 + scaled * (1 - 2 * gate)) * products
            gradient += softplus(parameters[0]) * weighted
            by_b += tf.reduce_sum(x * weighted)
        return gradient, [by_b * tf.sigmoid(parameters[0])]


class Silu(Pointwise):
    """x sigmoid(x): LipSwish without its scales, which `Chain.folded` moves into the kernels."""

    def enclosed(self, parameters, x, error):
        y = self(parameters, x)
        return y, enclosures.of_elementary(x, y, 1.1 * error)  # its slopes reach 1.0998

    def linearize(self, parameters, x):
        gate = tf.sigmoid(x)
        y = x * gate
        # The slope is gate + x gate (1 - gate).
        return y, (gate, gate + tf.raw_ops.SigmoidGrad(y=gate, dy=x), y)

    def slope(self, point):
        return point[1]

    def gradient(self, parameters, point, upstream, pairs=()):
        gate, slope, y = point
        gradient = slope * upstream
        if pairs:
            # The second derivative is (1 - gate) (2 slope - y), in few passes and without x:
            # y is kept anyway, as the next layer's input.
            products = tf.add_n([tangent * cotangent for tangent, cotangent in pairs])
            gradient += (products - gate * products) * (slope - y + slope)
        return gradient, []


class Chain(Function):
    """A composition of functions, first to last; parameters are theirs in this order."""

    def __init__(self, parts: Sequence[Function]) -> None:
        self.parts = list(parts)
        self.num_parameters = sum(part.num_parameters for part in self.parts)

    def folded(self, parameters):
        parts = list(self.parts)
        groups = [list(group) for group in self.split(parameters)]
        for index in range(1, len(parts) - 1):
            before, part, after = parts[index - 1 : index + 2]
            if not (
                isinstance(part, LipSwish)
                and isinstance(before, Affine)
                and isinstance(after, Affine)
                and groups[index][0].dtype.size >= 4  # narrower kernels would be rounded twice
            ):
                continue
            # x sigmoid(b x) / 1.1 = silu(b x) / (1.1 b), where silu'' and what b needs of it
            # take fewer passes over large tensors; the floor lies far below rounding.
            b = tf.maximum(softplus(groups[index][0]), 1e-12)
            groups[index - 1] = [b * p for p in groups[index - 1]]
            groups[index + 1][0] /= 1.1 * b
            parts[index], groups[index] = Silu(), []
        return Chain(parts), [p for group in groups for p in group]

    def unrounded(self):
        return Chain([part.unrounded() for part in self.parts])

    def enclosed(self, parameters, x, error):
        for part, own in zip(self.parts, self.split(parameters), strict=True):
            x, error = part.enclosed(own, x, error)
        return x, error

    def split(self, parameters: Parameters) -> list[Parameters]:
        """Returns the parameters of each part."""
        groups, start = [], 0
        for part in self.parts:
            groups.append(parameters[start : start + part.num_parameters])
            start += part.num_parameters
        return groups

    def linearize(self, parameters, x):
        points = []
        for part, own in zip(self.parts, self.split(parameters), strict=True):
            x, point = part.linearize(own, x)
            points.append(point)
        return x, points

    def respond(self, parameters, point, tangent):
        traces = []
        for part, own, at in zip(self.parts, self.split(parameters), point, strict=True):
            tangent, trace = part.respond(own, at, tangent)
            traces.append(trace)
        return tangent, traces

    def pullback(self, parameters, point, cotangent):
        layers = list(zip(self.parts, self.split(parameters), point, strict=True))
        for part, own, at in reversed(layers):
            cotangent = part.pullback(own, at, cotangent)
        return cotangent

    def gradient(self, parameters, point, upstream, pairs=()):
        layers = list(zip(self.parts, self.split(parameters), point, strict=True))
        cotangents = [cotangent for _, cotangent in pairs]
        gradients: list[list[tf.Tensor]] = []
        for index in reversed(range(len(layers))):
            part, own, at = layers[index]
            local = [(trace[index], c) for (trace, _), c in zip(pairs, cotangents, strict=True)]
            upstream, own_gradients = part.gradient(own, at, upstream, local)
            gradients.append(own_gradients)
            if index:
                cotangents = [part.pullback(own, at, c) for c in cotangents]
        return upstream, [g for own_gradients in reversed(gradients) for g in own_gradients]


class Taped(Function):
    """Any function of (parameters, x), differentiated by tapes: slower, but knows no limits."""

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

    def pullback(self, parameters, point, cotangent):
        tape, x, y = point
        return tape.gradient(y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def respond(self, parameters, point, tangent):
        tape, x, y = point
        # J^T c is linear in c, and its gradient against the tangent is J tangent.
        with tf.GradientTape() as outer:
            cotangent = tf.zeros_like(y)
            outer.watch(cotangent)
            pulled = tape.gradient(
                y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        response = outer.gradient(
            pulled, cotangent, tangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return response, tangent

    def gradient(self, parameters, point, upstream, pairs=()):
        x = point[1]
        parameters = list(parameters)
        with tf.GradientTape() as outer:
            outer.watch([x, *parameters])
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y = self.function(parameters, x)
            total = tf.reduce_sum(upstream * y)
            for tangent, cotangent in pairs:
                pulled = inner.gradient(
                    y, x, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                total += tf.reduce_sum(tangent * pulled)
        gradients = outer.gradient(
            total, [x, *parameters], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return gradients[0], gradients[1:]
