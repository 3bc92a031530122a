"""Running functions as they stand: for a few steps, to trace them is most of the time."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Traces no function but those of data sets, within.

    For tests of what surrounds a computation. That traced training does the same is the claim of
    others, such as those of the command line and of runs that are killed.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
