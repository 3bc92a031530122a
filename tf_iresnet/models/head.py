"""A classifier of a flow's latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.layers.tracking import track
from tf_iresnet.models.training.replicated import BatchNormalization
from tf_iresnet.typing import Config, Shape

_CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


@keras.saving.register_keras_serializable("tf_iresnet")
class LatentHead(keras.layers.Layer):
    r"""Logits = W [pool(relu(conv(norm(z_i))))]_i + b of the latents z_i of all scales.

    Latents that are images pass batch normalisation, a 3x3 convolution, ReLU and global average
    pooling. Vectors pass batch normalisation, a dense layer and ReLU. The features of all scales
    are concatenated.

    Args:
      classes: number of classes, at least 2.
      width: features taken from each scale's latents.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> head = LatentHead(10, 8)
    >>> head([tf.zeros((2, 4, 4, 2)), tf.zeros((2, 2, 2, 8))]).shape
    TensorShape([2, 10])

    Source: Residual Flows, section 5.4.
    """

    def __init__(self, classes: int, width: int = 64, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.classes = check_integer("classes", classes, 2)
        self.width = check_integer("width", width, 1)

    def build(self, input_shape: Sequence[Shape]) -> None:
        policy, width = self.dtype_policy, self.width
        norms, linear = [], []
        for index, shape in enumerate(input_shape):
            # As in the classifier: Keras' own 0.99 lags behind for hundreds of steps.
            norms.append(BatchNormalization(momentum=0.9, dtype=policy, name=f"norm_{index}"))
            options = {"activation": "relu", "dtype": policy, "name": f"features_{index}"}
            space = len(shape) - 2
            if space:
                linear.append(_CONVOLUTIONS[space](width, 3, padding="same", **options))
            else:
                linear.append(keras.layers.Dense(width, **options))
            norms[-1].build(shape)
            linear[-1].build(shape)
        self.norms, self.linear = norms, linear
        track(self, "norms", norms)
        track(self, "linear", linear)
        # Logits in full precision: in bfloat16 the largest two are often equal.
        self.logits = keras.layers.Dense(self.classes, dtype=self.variable_dtype, name="logits")
        self.logits.build((None, width * len(linear)))
        self.built = True

    def call(self, latents: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Returns the logits [batch, classes] of each scale's latents."""
        features = []
        for z, norm, linear in zip(latents, self.norms, self.linear, strict=True):
            y = tf.cast(linear(norm(z, training=training)), self.variable_dtype)
            features.append(tf.reduce_mean(y, axis=list(range(1, y.shape.rank - 1))))
        return self.logits(tf.concat(features, axis=1))

    def get_config(self) -> Config:
        return {**super().get_config(), "classes": self.classes, "width": self.width}
