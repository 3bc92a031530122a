"""From stored examples to what a model reads: dequantised for densities, scaled for classes."""

import math

import tensorflow as tf

from tf_iresnet.randomness import midpoints_of
from tf_iresnet.typing import DTypeLike
from training.data.randomness import Whole, example_words
from training.data.spec import DataSpec

TASKS = ("density", "classification", "hybrid", "conditional")


def needs_labels(task: str) -> bool:
    """Whether one of `TASKS` reads labels."""
    return task != "density"


def prepare(
    spec: DataSpec, task: str, x: tf.Tensor, key: int, first: Whole, dtype: DTypeLike
) -> tf.Tensor:
    """Turns stored examples into a model's input.

    Args:
      spec: the data set's description.
      task: one of `TASKS`.
      x: consecutive examples of a stream, as stored.
      key: the key of the stream's noise.
      first: the place of the first example in the stream.
      dtype: float32 or float64.

    Returns:
      Points as they are; images dequantised to (0, levels) or, for classification, scaled
      to [0, 1].
    """
    if spec.levels is None:
        return tf.cast(x, dtype)
    if task == "classification":
        return tf.cast(x, dtype) / (spec.levels - 1)
    return dequantise(x, key, first, dtype)


def target(spec: DataSpec, task: str, labels: tf.Tensor, dtype: DTypeLike) -> tf.Tensor:
    """Turns labels into what a model reads beside x.

    Args:
      spec: the data set's description.
      task: one of `TASKS` that needs labels.
      labels: int32 [n].
      dtype: float32 or float64.

    Returns:
      The labels; for conditional densities one-hot vectors [n, num_classes] of `dtype`.
    """
    return tf.one_hot(labels, spec.classes, dtype=dtype) if task == "conditional" else labels


def dequantise(images: tf.Tensor, key: int, first: Whole, dtype: DTypeLike) -> tf.Tensor:
    """Adds uniform noise on (0, 1) to integer pixels.

    The noise takes the 2^15 midpoints of a regular grid on the unit interval. Up to 256 levels the
    sum is then exact even in float32: it never rounds up to the next level, its floor is the pixel,
    and the noise's mean is exactly one half.

    Args:
      images: uint8 images [n, height, width, channels], consecutive in their stream.
      key: the key of the noise.
      first: the place of the first image in the stream.
      dtype: of the result, float32 or float64.
    """
    dims = math.prod(images.shape[1:])
    words = example_words(key, first, tf.shape(images)[0], -(-dims // 2))
    x = tf.cast(images, dtype)
    return x + midpoints_of(words, x)
