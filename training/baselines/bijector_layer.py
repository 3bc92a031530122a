"""Invertible layers whose map is a bijector of TensorFlow Probability."""

import abc
import math
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers import InvertibleLayer
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.typing import Shape

Network = Callable[[tf.Tensor], tf.Tensor | tuple[tf.Tensor, tf.Tensor]]


class BijectorLayer(InvertibleLayer):
    """A layer that makes a bijector around its own Keras network; a subclass says which.

    Each call makes the bijector, from data to latent, and hands it a fresh tensor: so TFP's cache
    never returns what other weights gave, and all weights are Keras'. The log-determinant is exact;
    the arguments `seed` and `log_det` change nothing.
    """

    network: keras.layers.Layer = None  # stays None where the map needs no network

    @abc.abstractmethod
    def bijector(self, network: Network) -> tfb.Bijector:
        """Makes the bijector of single examples, without the batch axis.

        Args:
          network: the layer's own, or a function that answers for it.
        """

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.bijector(self.network).forward(tf.identity(x))

    def _log_det(
        self, x: tf.Tensor, seed: tf.Tensor, log_det: LogDetEstimator | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # The same input in both calls: one evaluation of the network serves them.
        bijector, x = self.bijector(once(self.network)), tf.identity(x)
        y = bijector.forward(x)
        value = bijector.forward_log_det_jacobian(x, event_ndims=x.shape.rank - 1)
        return y, tf.broadcast_to(value, tf.shape(x)[:1])

    def _inverse(self, y: tf.Tensor) -> FixedPointResult:
        x = self.bijector(self.network).inverse(tf.identity(y))
        return FixedPointResult.exact(tf.ensure_shape(x, y.shape), math.inf)

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        return tuple(output_shape)


def once(network: Network) -> Network:
    """Returns a function that evaluates a network once, and gives that output in every call."""
    held: list[tf.Tensor | tuple[tf.Tensor, tf.Tensor]] = []

    def call(x: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        if not held:
            held.append(network(x))
        return held[0]

    return call
