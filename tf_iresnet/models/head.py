"""From the latents of a flow to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.layers.tracking import track
from tf_iresnet.models.distribution import BatchNormalization


class LatentHead(keras.layers.Layer):
    """Logits of the latents that leave at each scale.

    A convolution, batch normalisation, ReLU and the mean over space for the latents of each
    scale (without space, a dense layer in the convolution's place), then one dense layer on all.

    Args:
      channels: features of each scale.
      classes: number of logits.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, channels: int, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False
        self.channels = channels
        self.classes = classes
        self.linears: list[keras.layers.Layer] = []
        self.normalizations: list[keras.layers.Layer] = []

    def build(self, shapes: Sequence[tuple[int | None, ...]]) -> None:
        policy = self.dtype_policy
        for index, shape in enumerate(shapes):
            linear = _linear(len(shape) - 2, self.channels, dtype=policy, name=f"linear_{index}")
            linear.build(shape)
            # As in `IResNetClassifier`.
            normalization = BatchNormalization(
                momentum=0.9, dtype=policy, name=f"normalization_{index}"
            )
            normalization.build(linear.compute_output_shape(shape))
            self.linears.append(linear)
            self.normalizations.append(normalization)
        track(self, "linears", self.linears)
        track(self, "normalizations", self.normalizations)
        # Logits in full precision, as in `IResNetClassifier`.
        self.dense = keras.layers.Dense(self.classes, dtype=self.variable_dtype, name="dense")
        self.dense.build((None, self.channels * len(self.linears)))
        super().build(shapes)

    def call(self, latents: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        features = []
        layers = zip(self.linears, self.normalizations, strict=True)
        for x, (linear, normalization) in zip(latents, layers, strict=True):
            x = tf.nn.relu(normalization(linear(x), training=training))
            x = tf.cast(x, self.variable_dtype)
            features.append(tf.reduce_mean(x, axis=list(range(1, x.shape.rank - 1))))
        return self.dense(tf.concat(features, axis=-1))


def _linear(spatial_rank: int, channels: int, **options: Any) -> keras.layers.Layer:
    if not spatial_rank:
        return keras.layers.Dense(channels, use_bias=False, **options)
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    kind = kinds[spatial_rank - 1]
    return kind(channels, 3, padding="same", use_bias=False, **options)
