"""Arithmetic of other hardware, on this processor."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def to_eleven_bits(x: tf.Tensor) -> tf.Tensor:
    """Rounds float32 to nearest, ties to even, at TF32's 10 bits of fraction."""
    bits = tf.bitcast(x, tf.int32)
    even = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 13), 1)
    return tf.bitcast(tf.bitwise.bitwise_and(bits + 0x0FFF + even, ~0x1FFF), tf.float32)


class TensorFloat32:
    """Products of float32 that round their operands to TF32 while ``switch`` is true.

    The switch is a variable: graphs traced inside `installed` read it when they run, as they
    would find another device. A SavedModel of a graph has to hold it; ``always`` does without.
    """

    def __init__(self, always: bool = False) -> None:
        self.switch = None if always else tf.Variable(False)

    def _rounded(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype != tf.float32:
            return x
        if self.switch is None:
            return to_eleven_bits(x)
        # Read past tf.custom_gradient, which wants to know of variables.
        switch = tf.raw_ops.ReadVariableOp(resource=self.switch.handle, dtype=tf.bool)
        return tf.where(switch, to_eleven_bits(x), x)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Replaces TensorFlow's products by those of the emulation."""
        names = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
        originals = {name: getattr(tf.raw_ops, name) for name in names}
        product = tf.linalg.matmul

        def replaced(original):
            def call(**arguments):
                rounded = {
                    name: self._rounded(value)
                    if name in ("input", "filter", "out_backprop")
                    else value
                    for name, value in arguments.items()
                }
                return original(**rounded)

            return call

        def matmul(a, b, *args, **kwargs):
            return product(self._rounded(a), self._rounded(b), *args, **kwargs)

        try:
            for name, original in originals.items():
                setattr(tf.raw_ops, name, replaced(original))
            tf.linalg.matmul = tf.matmul = matmul
            yield
        finally:
            for name, original in originals.items():
                setattr(tf.raw_ops, name, original)
            tf.linalg.matmul = tf.matmul = product
