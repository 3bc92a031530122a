"""The Keras networks inside the baselines' bijectors."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.layers.tracking import track
from tf_iresnet.typing import Shape


class Affine(keras.layers.Layer):
    """A convolution, or a dense layer for vectors; batches may be empty, unlike Keras' own.

    Args:
      outputs: channels of the output.
      kernel_size: of the convolution; unused for vectors.
      zero: whether the kernel starts at zero.
      mask: the kernel is multiplied by it; None for none.
    """

    def __init__(
        self,
        outputs: int,
        kernel_size: int = 1,
        zero: bool = False,
        mask: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.outputs = outputs
        self.kernel_size = kernel_size
        self.initializer = "zeros" if zero else "he_normal"
        self.mask = mask

    def build(self, input_shape: Shape) -> None:
        spatial = [self.kernel_size] * (len(input_shape) - 2)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*spatial, input_shape[-1], self.outputs),
            initializer=self.initializer,
        )
        self.bias = self.add_weight(name="bias", shape=(self.outputs,), initializer="zeros")
        space = tf.TensorShape(input_shape)[1:-1]
        self._map = map_for_kernel(tuple(self.kernel.shape), tuple(space))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        if self.mask is not None:
            kernel *= tf.constant(self.mask, kernel.dtype)
        return tf.nn.bias_add(self._map.apply(kernel, x), bias)


class PlainNetwork(keras.layers.Layer):
    """Convolutions, or dense layers for vectors; the last one starts at zero.

    Args:
      outputs: channels of the output.
      hidden: channels in between.
      kernel_sizes: of the layers; dense ones take their number alone.
      activation: between the layers.
      timed: whether each layer also sees a time, as one more channel.
    """

    def __init__(
        self,
        outputs: int,
        hidden: int,
        kernel_sizes: Sequence[int],
        activation: str = "relu",
        timed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.activation = keras.activations.get(activation)
        self.timed = timed
        widths = [*[hidden] * (len(kernel_sizes) - 1), outputs]
        self.layers = [
            Affine(
                width,
                size,
                zero=index + 1 == len(widths),
                name=f"layer_{index}",
                dtype=self.dtype_policy,
            )
            for index, (width, size) in enumerate(zip(widths, kernel_sizes, strict=True))
        ]
        track(self, "layers", self.layers)

    def build(self, input_shape: Shape) -> None:
        *shape, channels = tf.TensorShape(input_shape)
        for layer in self.layers:
            layer.build((*shape, channels + self.timed))
            channels = layer.outputs
        self.built = True

    def call(self, x: tf.Tensor, time: tf.Tensor | None = None) -> tf.Tensor:
        for index, layer in enumerate(self.layers):
            if index:
                x = self.activation(x)
            if self.timed:
                clock = tf.ones_like(x[..., :1]) * tf.cast(time, x.dtype)
                x = tf.concat([x, clock], axis=-1)
            x = layer(x)
        return x


class MaskedNetwork(keras.layers.Layer):
    """A network whose output i depends on the inputs before i alone.

    It maps flattened examples [batch, d] to a shift and a log-scale, both [batch, d]; the last
    layer starts at zero. Vectors pass dense layers (MADE). Images pass convolutions that see the
    pixels before theirs in raster order and, of their own pixel, the channels before. A kernel's
    entries outside the mask are stored but never used.

    Args:
      event_shape: the shape of an example, channels last.
      hidden: widths of the hidden layers.
      kernel_sizes: of the layers, odd, one more than hidden layers; None for vectors.
      backwards: whether "before" means after: the order of the inputs is reversed.

    Raises:
      ValueError: if the sizes do not fit.

    Source: Germain, Gregor, Murray, Larochelle 2015 (MADE), section 4; van den Oord, Kalchbrenner,
    Kavukcuoglu 2016 (Pixel Recurrent Neural Networks), section 3.4.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int],
        kernel_sizes: Sequence[int] | None = None,
        backwards: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.event_shape = tuple(event_shape)
        *space, channels = self.event_shape
        sizes = [1] * (len(hidden) + 1) if kernel_sizes is None else list(kernel_sizes)
        if len(sizes) != len(hidden) + 1 or any(size % 2 == 0 for size in sizes):
            raise ValueError(
                f"kernel_sizes must hold {len(hidden) + 1} odd integers for {len(hidden)} hidden "
                f"layers, got {kernel_sizes!r}."
            )
        order = np.arange(channels)[::-1] if backwards else np.arange(channels)
        # A hidden unit of degree m sees the inputs up to m. Degrees are spread evenly over those
        # that some output may use: of images also none (-1) and all of the own pixel's channels,
        # since convolutions move what a unit has seen.
        least, count = (-1, channels + 1) if space else (0, max(channels - 1, 1))
        degrees = [order, *(least + np.arange(width) * count // width for width in hidden)]
        own = [after >= before[:, None] for before, after in itertools.pairwise(degrees)]
        out = order > degrees[-1][:, None]
        own.append(np.concatenate([out, out], axis=1))
        masks = [
            _mask_of_kernel([size] * len(space), channels_seen, backwards)
            for size, channels_seen in zip(sizes, own, strict=True)
        ]
        self.layers = [
            Affine(
                mask.shape[-1],
                size,
                zero=index == len(hidden),
                mask=mask,
                name=f"layer_{index}",
                dtype=self.dtype_policy,
            )
            for index, (size, mask) in enumerate(zip(sizes, masks, strict=True))
        ]
        track(self, "layers", self.layers)

    def build(self, input_shape: Shape) -> None:
        *space, channels = self.event_shape
        for layer in self.layers:
            layer.build((None, *space, channels))
            channels = layer.outputs
        self.built = True

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = x.shape[-1]
        x = tf.reshape(x, [-1, *self.event_shape])
        for index, layer in enumerate(self.layers):
            x = layer(tf.nn.relu(x) if index else x)
        shift, log_scale = tf.split(x, 2, axis=-1)
        return tf.reshape(shift, [-1, size]), tf.reshape(log_scale, [-1, size])


def _mask_of_kernel(sizes: Sequence[int], own: np.ndarray, backwards: bool) -> np.ndarray:
    """Returns a convolution's mask: all pixels before, and `own` for the pixel itself."""
    place = np.arange(np.prod(sizes, dtype=int)).reshape(sizes)[..., None, None]
    centre = place.size // 2
    before = place > centre if backwards else place < centre
    return before | ((place == centre) & own)
