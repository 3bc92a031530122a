"""Glow's invertible 1x1 convolution."""

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_iresnet.typing import Shape
from training.baselines.bijector_layer import BijectorLayer, Network


@keras.saving.register_keras_serializable("training")
class InvertibleLinear(BijectorLayer):
    r"""y = W x for the channels of each pixel, W = P L U with P a fixed permutation.

    ln\|det\| = pixels times the sum of ln \|U_ii\|. W starts as a random rotation.

    Args:
      **kwargs: of `keras.layers.Layer`.

    Source: Kingma, Dhariwal 2018 (Glow), section 3.2.
    """

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[-1]
        self.lower_upper = self.add_weight(
            name="lower_upper", shape=(channels, channels), initializer="zeros", autocast=False
        )
        self.permutation = self.add_weight(
            name="permutation",
            shape=(channels,),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )
        rotation = keras.initializers.Orthogonal()((channels, channels), dtype="float64")
        factors, order = tf.linalg.lu(tf.convert_to_tensor(rotation))
        self.lower_upper.assign(tf.cast(factors, self.variable_dtype))
        self.permutation.assign(order)

    def bijector(self, network: Network) -> tfb.Bijector:
        return tfb.ScaleMatvecLU(
            tf.convert_to_tensor(self.lower_upper), tf.convert_to_tensor(self.permutation)
        )
