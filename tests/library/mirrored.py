"""Mirrored strategies, one for all tests of a process.

Each strategy numbers its sums from the same start. TensorFlow takes those of two strategies on the
same devices for one another.
"""

import functools

import tensorflow as tf

TWO = ("CPU:0", "CPU:1")


@functools.cache
def mirrored(names: tuple[str, ...] | None = TWO) -> tf.distribute.MirroredStrategy:
    """The strategy of these devices; None for all that TensorFlow finds."""
    return tf.distribute.MirroredStrategy(names)
