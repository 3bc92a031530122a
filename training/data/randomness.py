"""Random numbers and orders that are pure functions of a seed and of a place in a stream.

Philox is a counter-based generator: its n-th block of four words takes no other block. Each example
owns a range of counters given by its place in the stream, so what is drawn for it depends neither
on its batch nor on where the stream was entered.
"""

import hashlib
from typing import TypeAlias

import tensorflow as tf

#: An integer, in Python or in a graph.
Whole: TypeAlias = tf.Tensor | int

_PHILOX = 1
_WORDS_PER_COUNT = 4
_ROUNDS = 16  # with the default of 4, neighbours in an order are correlated


def stream_key(seed: int, purpose: str) -> int:
    """Derives an independent 64-bit key for one purpose from the run's seed.

    Args:
      seed: the run's seed.
      purpose: what is drawn; two purposes never share numbers.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def example_words(key: int, first: Whole, count: Whole, words: int) -> tf.Tensor:
    """Draws 32-bit words for consecutive examples of a stream.

    Args:
      key: the stream's key.
      first: the place of the first example in the stream, an int64 scalar.
      count: the number of examples.
      words: the number of words per example.

    Returns:
      Words, uint32 of shape [count, words]; row i depends on `key` and `first + i` only.
    """
    groups = -(-words // _WORDS_PER_COUNT)
    counter = tf.stack([tf.cast(first, tf.int64) * groups, tf.zeros([], tf.int64)])
    drawn = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count, groups * _WORDS_PER_COUNT],
        key=tf.constant([key], tf.uint64),
        counter=tf.cast(counter, tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    return drawn[:, :words]


def unit_interval(words: tf.Tensor) -> tf.Tensor:
    """Turns uint32 words into float32 multiples of 2^-24, uniform in [0, 1)."""
    return tf.cast(tf.bitwise.right_shift(words, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def shuffled_indices(key: int, first: Whole, count: Whole, size: int) -> tf.Tensor:
    """Reads an endless row of shuffled epochs from any place on.

    Args:
      key: the key of the order.
      first: the first place to read, an int64 scalar.
      count: the number of places to read; they may reach into later epochs.
      size: the number of examples in an epoch.

    Returns:
      Indices in [0, size), int64 of shape [count]. From every multiple of `size` on, `size` places
      hold each index once.
    """
    places = tf.cast(first, tf.int64) + tf.range(count, dtype=tf.int64)
    epochs = places // size
    # The cipher mixes its seed poorly: orders of seeds that differ in a few bits are related. So
    # every epoch gets a seed of random words. The public index_shuffle takes one seed for all
    # places, but a batch may span epochs, hence the raw operation.
    begin = tf.cast(first, tf.int64) // size
    seeds = example_words(key, begin, count // size + 2, 3)
    return tf.raw_ops.RandomIndexShuffle(
        index=places % size,
        seed=tf.gather(seeds, epochs - begin),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=_ROUNDS,
    )
