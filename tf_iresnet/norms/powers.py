"""Powers of Gram matrices by squaring, and bounds of norms from them, roundings included."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

# Long sums are made of sums of so many terms: fewer roundings in a row. Powers need it less, since
# their norm is a large part of their Frobenius norm.
_CHUNK, _CHUNK_OF_POWERS = 128, 512
# Unit roundoff and half of the smallest number above 0.
ROUNDINGS = {
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
    "float32": (2.0**-24, 2.0**-127),  # subnormal numbers may be flushed to 0
    "float64": (2.0**-53, 2.0**-1023),
}


def unit_roundoff(dtype: tf.DType) -> float:
    """Returns the largest relative error of one rounding."""
    return ROUNDINGS[dtype.name][0]


def nonzero(x: tf.Tensor) -> tf.Tensor:
    """Returns x with ones in place of zeros, to divide by."""
    return tf.where(x == 0, tf.ones_like(x), x)


class Power(NamedTuple):
    """Powers Z of Gram matrices G, scaled to the Frobenius norm 1.

    ``parts`` holds Z, [..., n, n], or its real and imaginary parts. ``scales`` holds the Frobenius
    norms divided by, first that of G, then those of the squares.
    """

    parts: tuple[tf.Tensor, ...]
    scales: tuple[tf.Tensor, ...]

    @classmethod
    def of(cls, parts: tuple[tf.Tensor, ...], scales: tuple[tf.Tensor, ...] = ()) -> Power:
        """Scales matrices, given as ``parts`` of the class, to the Frobenius norm 1."""
        # Row by row, which rounds less often.
        squares = [tf.reduce_sum(tf.reduce_sum(tf.square(p), axis=-1), axis=-1) for p in parts]
        size = tf.sqrt(sum(squares[1:], squares[0]))
        divisor = nonzero(size)[..., None, None]
        return cls(tuple(part / divisor for part in parts), (*scales, size))

    def squared(self, number: int) -> Power:
        """Returns the matrices squared so many times, scaled."""
        power = self
        for _ in range(number):
            real, *imaginary = power.parts
            square = product(real, real, _CHUNK_OF_POWERS)
            rest = []
            for part in imaginary:
                square += product(part, part, _CHUNK_OF_POWERS)
                half = product(part, real, _CHUNK_OF_POWERS)
                rest.append(half - tf.linalg.matrix_transpose(half))
            power = Power.of((square, *rest), power.scales)
        return power

    def gathered(self, places: tf.Tensor) -> Power:
        """Returns the matrices at some places of the second axis, [count, places]."""
        parts, scales = (
            tuple(tf.gather(x, places, batch_dims=1) for x in own)
            for own in (self.parts, self.scales)
        )
        return Power(parts, scales)

    def bound(self) -> tf.Tensor:
        """Bounds the norms of G, in float64."""
        size, unit = int(self.parts[0].shape[-1]), unit_roundoff(self.parts[0].dtype)
        trace = tf.cast(tf.linalg.trace(self.parts[0]), tf.float64)
        # Of a scaled square. With \|R\|_F^2 + \|I\|_F^2 = 1 the errors of R R^T + I I^T and of
        # X - X^T are of at most this many roundings each.
        rounding = 1.5 * (count_roundings(size, _CHUNK_OF_POWERS) + 16) * unit
        # The eigenvalues are real, but for rounding; their mean and sum of squares are known.
        doubt = 2 * rounding + (16 * size + 32) * unit
        spread = tf.maximum(1 - trace**2 / size, 0) + doubt
        bound = tf.abs(trace) / size + tf.sqrt((size - 1) / size * spread) + doubt
        up = 1 + (2 * size + 16) * unit  # of a Frobenius norm, and of what is divided by it
        bound = tf.minimum(bound, up + rounding)
        scales = [tf.cast(scale, tf.float64) * up for scale in self.scales]
        for scale in reversed(scales[1:]):
            bound = tf.sqrt(scale * bound + rounding)
        return scales[0] * bound


def count_roundings(size: int, chunk: int = _CHUNK) -> int:
    """Returns how many roundings an entry of `product` has, for sums of so many terms."""
    return size if size < 2 * chunk else chunk + math.ceil(size / chunk)


def product(a: tf.Tensor, b: tf.Tensor, chunk: int = _CHUNK) -> tf.Tensor:
    """Returns a b^T of stacked matrices, long sums being made of short ones."""
    size = int(a.shape[-1])
    if size < 2 * chunk:
        return tf.linalg.matmul(a, b, transpose_b=True)
    parts = [slice(start, start + chunk) for start in range(0, size, chunk)]
    return tf.add_n([tf.linalg.matmul(a[..., p], b[..., p], transpose_b=True) for p in parts])
