"""What every function offers: its value, products with its Jacobian, and one gradient."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

Parameters: TypeAlias = Sequence[tf.Tensor]
#: What a function keeps of a point or of a tangent: nested sequences of tensors, or a tape.
Residuals: TypeAlias = Any
#: Kept tangents, each with a cotangent.
Products: TypeAlias = Sequence[tuple[Residuals, tf.Tensor]]


class Function(abc.ABC):
    """A function g(parameters, x) of batches, each example mapped by itself."""

    #: How many tensors `parameters` holds.
    num_parameters: int = 0

    def __call__(self, parameters: Parameters, x: tf.Tensor) -> tf.Tensor:
        """Returns g(x)."""
        return self.linearize(parameters, x)[0]

    def fold(self, parameters: Parameters) -> tuple[Function, Parameters]:
        """Returns an equal function that is cheaper to differentiate often, and its parameters.

        The new parameters are differentiable functions of the given ones.
        """
        return self, parameters

    def unrounded(self) -> Function:
        """Returns an equal function whose float32 products no device rounds.

        It takes the same parameters, and its `vjp` the same residuals. A function that does not
        know its products returns itself.
        """
        return self

    def enclose(
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
    def linearize(self, parameters: Parameters, x: tf.Tensor) -> tuple[tf.Tensor, Residuals]:
        """Returns g(x) and the residuals: what derivatives at x need."""

    @abc.abstractmethod
    def vjp(self, parameters: Parameters, residuals: Residuals, cotangent: tf.Tensor) -> tf.Tensor:
        """Returns J^T cotangent."""

    @abc.abstractmethod
    def jvp(
        self, parameters: Parameters, residuals: Residuals, tangent: tf.Tensor
    ) -> tuple[tf.Tensor, Residuals]:
        """Returns J tangent, and the inner tangents that `gradient` needs."""

    @abc.abstractmethod
    def gradient(
        self,
        parameters: Parameters,
        residuals: Residuals,
        upstream: tf.Tensor,
        products: Products = (),
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Differentiates <upstream, g(x)> + sum over products of <cotangent, J tangent>.

        Args:
          parameters: the parameters of `linearize`.
          residuals: what `linearize` returned second.
          upstream: constant, of the shape of g(x).
          products: constants: what `jvp` returned second, and a cotangent of the shape of g(x).

        Returns:
          The gradients with respect to x and to each parameter. Those of parameters are summed over
          the batch, except for parameters that have a batch of their own, see `Affine`.
        """

    def take_examples(
        self, residuals: Residuals, take: Callable[[tf.Tensor], tf.Tensor]
    ) -> Residuals | None:
        """Returns what `vjp` needs of some examples alone.

        Args:
          residuals: what `linearize` returned second, or this method.
          take: takes these examples from a tensor [batch, ...].

        Returns:
          Residuals for `vjp`; None if they hold anything but tensors.
        """
        if not all(tf.is_tensor(leaf) for leaf in tf.nest.flatten(residuals)):
            return None
        return tf.nest.map_structure(take, residuals)
