"""What one example of a model is: its shape, its dtype and, where it has pixels, their levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_iresnet.layers.rows import refuse_dictionary
from tf_iresnet.models.training.inputs import check_shape
from tf_iresnet.models.training.pixels import (
    add_noise,
    check_pixels,
    nan_where_no_density,
    pixel_findings,
    take_centres,
)
from tf_iresnet.typing import ArrayLike, DTypeLike, Seed


def convert_event(
    name: str, x: ArrayLike, event_shape: Sequence[int | None], dtype: DTypeLike
) -> tf.Tensor:
    """Converts an argument of shape [batch, *event_shape], and casts it.

    Raises:
      ValueError: if it has another shape.
    """
    refuse_dictionary(name, x)
    x = tf.convert_to_tensor(x)
    check_shape(name, x.shape, event_shape)
    return x if x.dtype == dtype else tf.cast(x, dtype)


class Event:
    """What one example is; converts and checks batches of examples.

    Args:
      shape: of one example.
      dtype: that the model computes in.
      levels: how many values a pixel takes; None for data that is taken as it is.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike, levels: int | None = None) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.levels = levels

    def convert(self, x: ArrayLike) -> tf.Tensor:
        """Converts x [batch, *shape] and checks its shape; pixels that are integers stay so."""
        if self.levels is not None:
            x = tf.convert_to_tensor(x)
            if x.dtype.is_integer:  # the noise is still to come
                check_shape("x", x.shape, self.shape)
                return x
        return convert_event("x", x, self.shape, self.dtype)

    def check(self, x: ArrayLike, seed: Seed = None, densities: bool = False) -> tf.Tensor:
        """Converts data, and refuses what is no data for the model: by an error, in graphs by NaN.

        Args:
          x: [batch, *shape].
          seed: of the noise of pixels that are integers; None takes their centres.
          densities: whether likelihoods are asked for.

        Raises:
          ValueError: if x has another shape; in eager code, if it is no data for the model.
        """
        x = self.convert(x)
        if tf.executing_eagerly():
            if not x.dtype.is_integer and not bool(tf.reduce_all(tf.math.is_finite(x))):
                raise ValueError("x holds NaN or infinite values; remove those examples.")
            if self.levels is not None:
                check_pixels(x, self.levels, densities)
        elif self.levels is not None and densities and not x.dtype.is_integer:
            x = nan_where_no_density(x, self.levels)
        return self.dequantize(x, seed)

    def dequantize(self, x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Adds a seed's noise to pixels that are integers; without a seed takes their centres."""
        if self.levels is None or not x.dtype.is_integer:
            return x
        if seed is None:
            return take_centres(x, self.levels, self.dtype)
        return add_noise(x, seed, self.levels, self.dtype)

    def check_array(self, x: ArrayLike, densities: bool) -> None:
        """Refuses an array that is no data for the model; NaN is left to the steps.

        Args:
          x: all of the data, [n, *shape].
          densities: whether likelihoods are asked for.

        Raises:
          ValueError: if it is none.
        """
        check_shape("x", np.shape(x), self.shape)
        if self.levels is not None:
            check_pixels(np.asarray(x), self.levels, densities)

    def findings(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns which of `skipping.FINDINGS` hold for the pixels of a batch."""
        if self.levels is None:
            return {}
        found = pixel_findings(x, self.levels)
        if "scaled" in found:
            found["wide"] = tf.reduce_any(x > 1)
        return found
