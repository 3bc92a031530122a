"""Functions run eagerly: of a few steps, tracing takes most of the time."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Within, no function is traced but those of data sets.

    For tests of what surrounds a computation. Others, such as those of the command line and of runs
    that are killed, train in graphs.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
