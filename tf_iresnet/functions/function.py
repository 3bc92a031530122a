"""What every function offers: its value, products with its Jacobian, and one gradient."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

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
        """Returns g(x) and a bound of its error, see `tf_iresnet.functions.enclosures`.

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

    def of_examples(self, point: Any, pick: Callable[[tf.Tensor], tf.Tensor]) -> Any:
        """Returns the linearised point of some examples alone.

        Args:
          point: what `linearize` returned second.
          pick: takes these examples from a batch of tensors.

        Returns:
          The point for `pullback`; None where it holds something else than a batch of tensors.
        """
        if not all(tf.is_tensor(leaf) for leaf in tf.nest.flatten(point)):
            return None
        return tf.nest.map_structure(pick, point)

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


def sum_of_copies(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The transpose of `per_example`: adds up what belongs to the same example."""
    copies = tf.shape(values)[0] // tf.maximum(tf.shape(like)[0], 1)
    stacked = tf.reshape(values, tf.concat([[copies], tf.shape(like)], axis=0))
    return tf.ensure_shape(tf.reduce_sum(stacked, axis=0), like.shape)
