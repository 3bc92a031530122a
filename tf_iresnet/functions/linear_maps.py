"""Linear maps with a kernel: application, adjoint and the kernel's gradient.

A map holds shapes only; the kernel is an argument. Layers, norms and the differentiable
functions of a branch share these, so that a norm is always that of the operator in use.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class DenseMap:
    """x -> x W for x of shape [..., inputs] and W of shape [inputs, outputs]."""

    inputs: int
    outputs: int

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return (self.inputs, self.outputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The event shape of the input."""
        return (self.inputs,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The event shape of the output."""
        return (self.outputs,)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one application."""
        return 2.0 * self.inputs * self.outputs

    def apply(self, kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns x W."""
        return tf.linalg.matmul(x, kernel)

    def adjoint(self, kernel: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns y W^T."""
        return tf.linalg.matmul(y, kernel, transpose_b=True)

    def kernel_gradient(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of <x W, y> with respect to W, summed over the batch."""
        return tf.linalg.matmul(
            tf.reshape(x, [-1, self.inputs]), tf.reshape(y, [-1, self.outputs]), transpose_a=True
        )


@dataclasses.dataclass(frozen=True)
class ConvMap:
    """A convolution (cross-correlation) at a fixed spatial size, channels last.

    Kernels have Keras' shape: spatial sizes, input channels / groups, output channels.
    """

    spatial_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    padding: str = "same"
    strides: tuple[int, ...] = (1,)
    dilation_rate: tuple[int, ...] = (1,)
    groups: int = 1

    def __post_init__(self) -> None:
        rank = len(self.spatial_shape)
        if len(self.kernel_shape) != rank + 2:
            raise ValueError(
                f"a kernel of shape {self.kernel_shape} needs a spatial shape of "
                f"{len(self.kernel_shape) - 2} sizes, got {self.spatial_shape}."
            )
        if self.padding not in ("same", "valid", "causal"):
            raise ValueError(f'padding must be "same", "valid" or "causal", got {self.padding!r}.')
        if self.padding == "causal" and rank != 1:
            raise ValueError('padding="causal" is defined for 1-D convolutions only.')
        for field in ("strides", "dilation_rate"):
            value = getattr(self, field)
            if len(value) == 1:
                object.__setattr__(self, field, tuple(value) * rank)
        if min(self.spatial_shape) < 1 or min(self.output_shape) < 1:
            raise ValueError(
                f"spatial_shape {self.spatial_shape} is too small for a kernel of shape "
                f'{self.kernel_shape} with padding={self.padding!r}; use a larger input or "same".'
            )

    @functools.cached_property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.spatial_shape)

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...]:
        """The event shape of the input."""
        return (*self.spatial_shape, self.kernel_shape[-2] * self.groups)

    @functools.cached_property
    def output_shape(self) -> tuple[int, ...]:
        """The event shape of the output."""
        sizes = []
        for size, kernel, stride, dilation in zip(
            self.spatial_shape, self.kernel_shape, self.strides, self.dilation_rate, strict=False
        ):
            reach = 0 if self.padding != "valid" else dilation * (kernel - 1)
            sizes.append(-(-(size - reach) // stride))
        return (*sizes, self.kernel_shape[-1])

    @functools.cached_property
    def operations(self) -> float:
        """Multiplications and additions of one application."""
        return 2.0 * math.prod(self.kernel_shape) * math.prod(self.output_shape[:-1])

    @functools.cached_property
    def _causal_pad(self) -> int:
        if self.padding != "causal":
            return 0
        return self.dilation_rate[0] * (self.kernel_shape[0] - 1)

    @functools.cached_property
    def _lifted_input_shape(self) -> tuple[int, ...]:
        """The event shape that TensorFlow's operation sees: padded, of at least two sizes."""
        lead = (1,) if self.rank == 1 else ()
        spatial = (size + self._causal_pad for size in self.spatial_shape)
        return (*lead, *spatial, self.input_shape[-1])

    @functools.cached_property
    def _group(self) -> ConvMap:
        """One group's map: on a CPU TensorFlow has no gradients of grouped convolutions."""
        shape = (*self.kernel_shape[:-1], self.kernel_shape[-1] // self.groups)
        return dataclasses.replace(self, kernel_shape=shape, groups=1)

    @functools.cached_property
    def _is_centred(self) -> bool:
        """Whether the adjoint is the convolution with the turned kernel (`_turn`)."""
        odd = all(size % 2 for size in self.kernel_shape[: self.rank])
        plain = set(self.strides + self.dilation_rate) == {1}
        return self.padding == "same" and odd and plain and self.groups == 1

    def _by_rows(self, inputs: int, outputs: int) -> bool:
        """Whether a convolution between so many channels is cheaper row by row of its kernel."""
        height = self.kernel_shape[0]
        few = height * outputs <= _VECTOR <= inputs
        return self._is_centred and self.rank == 2 and height > 1 and few

    # TensorFlow's raw operations know two and three spatial dimensions: a 1-D convolution is a
    # 2-D one of height one. On a CPU they have no gradients of dilated ones: kernels are spread
    # with zeros instead.
    def _lift(self, x: tf.Tensor) -> tf.Tensor:
        return tf.expand_dims(x, 1) if self.rank == 1 else x

    def _lift_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        for axis, dilation in enumerate(self.dilation_rate):
            if dilation > 1:
                taps = tf.expand_dims(kernel, axis + 1)
                taps = tf.concat([taps] + [tf.zeros_like(taps)] * (dilation - 1), axis + 1)
                shape = list(kernel.shape)
                shape[axis] *= dilation
                kept = (slice(None),) * axis + (slice(None, 1 - dilation),)
                kernel = tf.reshape(taps, shape)[kept]
        return tf.expand_dims(kernel, 0) if self.rank == 1 else kernel

    def _lower(self, x: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(x, 1) if self.rank == 1 else x

    @functools.cached_property
    def _options(self) -> dict[str, Sequence[int] | str]:
        lead = (1,) if self.rank == 1 else ()
        return {
            "strides": [1, *lead, *self.strides, 1],
            "padding": "SAME" if self.padding == "same" else "VALID",
        }

    def _pad(self, x: tf.Tensor) -> tf.Tensor:
        pad = self._causal_pad
        return tf.pad(x, [[0, 0], [pad, 0], [0, 0]]) if pad else x

    def apply(self, kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns the convolution of x [batch, spatial, channels] with the kernel."""
        if self.groups > 1:
            parts = zip(
                tf.split(kernel, self.groups, -1), tf.split(x, self.groups, -1), strict=True
            )
            return tf.concat([self._group.apply(k, part) for k, part in parts], -1)
        if self._by_rows(*self.kernel_shape[-2:]):
            return _convolve_by_rows(kernel, x)
        op = tf.raw_ops.Conv3D if self.rank == 3 else tf.raw_ops.Conv2D
        x = self._lift(self._pad(x))
        y = self._lower(op(input=x, filter=self._lift_kernel(kernel), **self._options))
        # TensorFlow's convolutions hand an empty batch through, with the input's channels.
        return tf.reshape(y, [0, *self.output_shape]) if x.shape[0] == 0 else y

    def adjoint(self, kernel: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the transposed convolution of y [batch, spatial, filters]."""
        if self.groups > 1:
            parts = zip(
                tf.split(kernel, self.groups, -1), tf.split(y, self.groups, -1), strict=True
            )
            return tf.concat([self._group.adjoint(k, part) for k, part in parts], -1)
        if self._by_rows(*self.kernel_shape[:-3:-1]):
            return _convolve_by_rows(_turn(kernel), y)
        pad = self._causal_pad
        event = tf.constant(self._lifted_input_shape, tf.int32)
        sizes = tf.concat([tf.shape(y)[:1], event], axis=0)
        kernel, y_lifted = self._lift_kernel(kernel), self._lift(y)
        if self.rank == 3:
            x = tf.raw_ops.Conv3DBackpropInputV2(
                input_sizes=sizes, filter=kernel, out_backprop=y_lifted, **self._options
            )
        else:
            x = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=sizes, filter=kernel, out_backprop=y_lifted, **self._options
            )
        x = self._lower(x)[:, pad:] if pad else self._lower(x)
        return tf.ensure_shape(x, [y.shape[0], *self.input_shape])

    def kernel_gradient(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of <conv(x, K), y> with respect to K, summed over the batch."""
        if self.groups > 1:
            parts = zip(tf.split(x, self.groups, -1), tf.split(y, self.groups, -1), strict=True)
            return tf.concat([self._group.kernel_gradient(a, b) for a, b in parts], -1)
        inputs, outputs = self.kernel_shape[-2:]
        if self._is_centred and outputs < inputs:
            # <conv(x, K), y> is <x, conv(y, turned K)>, whose gradient is faster.
            shape = (*self.kernel_shape[:-2], outputs, inputs)
            return _turn(dataclasses.replace(self, kernel_shape=shape).kernel_gradient(y, x))
        lead = (1,) if self.rank == 1 else ()
        reaches = zip(self.kernel_shape, self.dilation_rate, strict=False)
        spread = (*((k - 1) * d + 1 for k, d in reaches), *self.kernel_shape[-2:])
        op = (
            tf.raw_ops.Conv3DBackpropFilterV2 if self.rank == 3 else tf.raw_ops.Conv2DBackpropFilter
        )
        gradient = op(
            input=self._lift(self._pad(x)),
            filter_sizes=tf.constant((*lead, *spread), tf.int32),
            out_backprop=self._lift(y),
            **self._options,
        )
        gradient = tf.squeeze(gradient, 0) if self.rank == 1 else gradient
        return gradient[tuple(slice(None, None, d) for d in self.dilation_rate)]


# Processors compute at least so many channels together: fewer outputs waste the rest.
_VECTOR = 16


def _turn(kernel: tf.Tensor) -> tf.Tensor:
    """Reverses a kernel in space and swaps its channels."""
    rank = kernel.shape.rank
    spatial = list(range(rank - 2))
    return tf.transpose(tf.reverse(kernel, spatial), [*spatial, rank - 1, rank - 2])


def _convolve_by_rows(kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Convolves each row of a centred 2-D kernel, and adds up the results, shifted.

    One convolution does it for all rows, whose outputs stand side by side as channels. They fill
    the processor's vectors, which a few channels alone would leave partly empty.
    """
    height, width, inputs, outputs = kernel.shape
    rows = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3]), [1, width, inputs, height * outputs])
    y = tf.raw_ops.Conv2D(input=x, filter=rows, strides=[1, 1, 1, 1], padding="SAME")
    reach = height // 2
    y = tf.pad(y, [[0, 0], [reach, reach], [0, 0], [0, 0]])
    size = x.shape[1]
    shifted = [
        y[:, row : row + size, :, row * outputs : (row + 1) * outputs] for row in range(height)
    ]
    return tf.add_n(shifted)


LinearMap = DenseMap | ConvMap


def map_for_kernel(
    kernel_shape: tuple[int, ...], spatial_shape: tuple[int, ...] | None, padding: str = "same"
) -> LinearMap:
    """Returns the dense map (rank 2) or the stride-1 convolution of a kernel's shape."""
    if len(kernel_shape) == 2:
        return DenseMap(*kernel_shape)
    if len(kernel_shape) not in (3, 4, 5):
        raise ValueError(
            "kernel must have 2 axes (dense) or 3 to 5 (spatial sizes, inputs, outputs), "
            f"got shape {tuple(kernel_shape)}."
        )
    if spatial_shape is None:
        raise ValueError(
            f"a convolution kernel of shape {tuple(kernel_shape)} needs spatial_shape, "
            "the size of its input, since its norm depends on it."
        )
    return ConvMap(tuple(spatial_shape), tuple(kernel_shape), padding)
