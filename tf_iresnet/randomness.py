"""Counter-based random draws: a function of the seed and of the example's global index.

A *seed* is an int32 tensor of shape [3]: two words of key and the global index of the first
example of the batch. The draws that belong to example ``i`` depend on the key and on
``first + i`` alone, so a batch cut into pieces for several replicas sees the same numbers.

In evaluation each example has a key of its own, int64 [batch, 1], made of the seed's key and of the
example's values (`own_keys`). Its draws do not depend on the other examples of the batch, and are
independent of theirs. Functions that take a seed take such keys as well.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import tensorflow as tf

from tf_iresnet.typing import DTypeLike, Seed

_PHILOX = 1
_WORDS_PER_COUNTER = 4  # one Philox counter value yields four 32-bit words
# SplitMix64: the step between states, and the multipliers of the output function.
_STEP, _FIRST, _SECOND = (
    np.array(word, np.uint64).astype(np.int64)
    for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def as_seed(seed: Seed = None) -> tf.Tensor:
    """Returns ``seed`` as an int32 tensor of shape [3]: key, key, index of the first example.

    Args:
      seed: None for a fresh draw (from TensorFlow's global generator, so
        ``tf.random.set_seed`` fixes it), an integer, or two or three integers.

    Returns:
      An int32 tensor of shape [3].

    Raises:
      ValueError: if ``seed`` holds another number of values, or no integers.

    Example:
    >>> as_seed(7).numpy().tolist()
    [0, 7, 0]
    """
    if seed is None:
        key = tf.random.uniform([2], tf.int32.min, tf.int32.max, dtype=tf.int32)
        return tf.concat([key, tf.zeros([1], tf.int32)], axis=0)
    if not _is_tensor(seed):
        # Python's integers are unbounded; the key keeps their 64 low bits.
        words = [_as_integer(word, seed) for word in np.ravel(np.asarray(seed, dtype=object))]
        if len(words) == 1:
            words = [words[0] >> 32, words[0], 0]
        elif len(words) == 2:
            words = [*words, 0]
        if len(words) != 3:
            raise ValueError(f"seed must be an integer or two or three integers, got {seed!r}.")
        return tf.constant(np.asarray([w & 0xFFFFFFFF for w in words], np.uint32).view(np.int32))
    if not seed.dtype.is_integer:
        raise ValueError(f"seed must hold integers, got {seed.dtype.name}.")
    if _are_keys(seed):
        return seed
    given: tf.Tensor = tf.reshape(seed, [-1])
    if given.shape[0] == 1:
        high = tf.bitwise.right_shift(tf.cast(given, tf.int64), 32)
        given = tf.concat([high, tf.cast(given, tf.int64)], axis=0)
    given = tf.cast(given, tf.int32)
    if given.shape[0] == 2:
        return tf.concat([given, [0]], axis=0)
    if given.shape[0] not in (3, None):
        raise ValueError(f"seed must hold one, two or three integers, got shape {given.shape}.")
    return tf.ensure_shape(given, [3])


def _as_integer(word: object, seed: Seed) -> int:
    if not isinstance(word, numbers.Integral) or isinstance(word, bool):
        raise ValueError(f"seed must be an integer or two or three integers, got {seed!r}.")
    return int(word)


def fold_in(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """Returns an independent seed for ``data``, such as a block's index, for the same examples."""
    if _are_keys(seed):
        return _mix(seed + (2 * tf.cast(data, tf.int64) + 1) * _FIRST)
    key = tf.random.experimental.stateless_fold_in(_key(seed), tf.cast(data, tf.int32))
    return tf.concat([key, seed[2:]], axis=0)


def own_keys(seed: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    r"""Returns a key for each example, a function of the seed's key and of the example's values.

    The values' bits b are hashed, h = sum_j m_j b_j modulo 2^64 with fixed odd random m. Two
    different examples have the same upper half of h with a probability of 2^-32.

    Args:
      seed: int32 [3]; keys are returned as they are.
      x: [batch, ...], integers or floats; 0 and -0 are the same.

    Returns:
      Int64 [batch, 1].

    Example:
    >>> x = tf.constant([[1.0], [2.0], [1.0]])
    >>> keys = own_keys(as_seed(7), x)[:, 0]
    >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    >>> bool(keys_of_seeds(tf.constant([7, 8, 7]), x)[2, 0] == keys[2])
    True

    Source: Lemire, Kaser 2014 (Strongly universal string hashing is fast), section 2; Steele, Lea,
    Flood 2014 (Fast splittable pseudorandom number generators) for the draws.
    """
    if _are_keys(seed):
        return seed
    key = tf.cast(seed[:2], tf.int64) & 0xFFFFFFFF
    return _mix(_mix(key[0] * 2**32 + key[1]) ^ _hash(x))


def keys_of_seeds(seeds: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns a key for each example as `own_keys` does, of a seed for each.

    Args:
      seeds: integers, [batch].
      x: [batch, ...].

    Returns:
      Int64 [batch, 1].
    """
    return _mix(_mix(tf.cast(seeds, tf.int64)[:, None]) ^ _hash(x))


def _hash(x: tf.Tensor) -> tf.Tensor:
    """Returns the multilinear hash of each example's bits, int64 [batch, 1]."""
    if x.dtype.is_integer or x.dtype.is_bool:
        bits = tf.cast(x, tf.int64)
    else:
        # In float32, so that both precisions have the same noise.
        x = tf.cast(x, tf.float32)
        bits = tf.cast(tf.bitcast(tf.where(x == 0, 0.0, x), tf.int32), tf.int64)
    batch, size = _batch_and_size(bits)
    factors = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (2, size), np.int64) | 1
    bits = tf.reshape(bits, [batch, size])
    words = [tf.reduce_sum(bits * row, axis=1, keepdims=True) for row in factors]
    high, low = (_shift_right(word, 32) for word in words)
    return high * 2**32 + low


def _is_tensor(seed: object) -> TypeGuard[tf.Tensor]:
    return tf.is_tensor(seed)


def _are_keys(seed: Seed) -> bool:
    """Says whether a seed is a key for each example."""
    return _is_tensor(seed) and seed.dtype == tf.int64 and seed.shape.rank == 2


def _shift_right(x: tf.Tensor, bits: int) -> tf.Tensor:
    """Shifts int64 to the right, zeros coming in from the left."""
    return tf.bitwise.right_shift(x, np.int64(bits)) & np.int64(2 ** (64 - bits) - 1)


def _mix(x: tf.Tensor) -> tf.Tensor:
    """Applies SplitMix64's output function, a bijection of int64: each bit depends on all bits."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def _key(seed: tf.Tensor) -> tf.Tensor:
    """Returns the key without the signs of its words, which XLA extends in another way."""
    return tf.bitwise.bitwise_and(seed[:2], tf.int32.max)


def shared_uniform(
    seed: tf.Tensor, shape: Sequence[int] = (), dtype: DTypeLike = tf.float32
) -> tf.Tensor:
    """Returns uniform draws on [0, 1) that all examples, and so all replicas, share.

    Examples with keys of their own have draws of their own, [batch, *shape].
    """
    if _are_keys(seed):
        return uniform(seed, tf.zeros((tf.shape(seed)[0], *shape), dtype))
    one = tf.concat([seed[:2], [0]], axis=0)
    return uniform(one, tf.zeros((1, *shape), dtype))[0]


def _words(seed: tf.Tensor, batch: tf.Tensor, per_example: int) -> tf.Tensor:
    """Draws ``per_example`` random 32-bit words for each of ``batch`` examples, as uint32."""
    if _are_keys(seed):
        steps = np.arange(1, 1 + -(-per_example // 2)).astype(np.int64)
        with np.errstate(over="ignore"):
            steps = steps * _STEP
        words = tf.bitcast(_mix(seed + steps), tf.uint32)  # [batch, counters, 2]
        return tf.reshape(words, [batch, 2 * len(steps)])[:, :per_example]
    counters = -(-per_example // _WORDS_PER_COUNTER)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=_key(seed))
    first = tf.cast(tf.bitcast(seed[2], tf.uint32), tf.uint64) * tf.constant(counters, tf.uint64)
    counter = tf.stack([counter[0] + first, counter[1]])
    width = counters * _WORDS_PER_COUNTER
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([batch, width]), key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return words[:, :per_example]


def _batch_and_size(like: tf.Tensor) -> tuple[tf.Tensor, int]:
    size = like.shape[1:].num_elements()
    if size is None:
        raise ValueError(f"the event shape must be static, got a tensor of shape {like.shape}.")
    return tf.shape(like)[0], size


def _high_bits(words: tf.Tensor, count: int) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(32 - count, tf.uint32))


def rademacher(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns independent signs, -1 or 1 with probability 1/2, of ``like``'s shape and dtype."""
    batch, size = _batch_and_size(like)
    words = _words(seed, batch, -(-size // 32))
    bits = tf.bitwise.right_shift(words[:, :, None], np.arange(32, dtype=np.uint32))
    bits = tf.reshape(tf.bitwise.bitwise_and(bits, tf.constant(1, tf.uint32)), [batch, -1])
    signs = 2 * tf.cast(bits[:, :size], like.dtype) - 1
    return tf.ensure_shape(tf.reshape(signs, tf.shape(like)), like.shape)


def uniform(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns independent uniform draws on [0, 1), of the shape and dtype of ``like``."""
    batch, size = _batch_and_size(like)
    # As many bits as the significand holds, so that the result can't round up to 1.
    if like.dtype == tf.float64:
        words = _words(seed, batch, 2 * size)
        high, low = _high_bits(words[:, :size], 27), _high_bits(words[:, size:], 26)
        draws = (tf.cast(high, tf.float64) * 2.0**26 + tf.cast(low, tf.float64)) * 2.0**-53
    else:
        bits = _high_bits(_words(seed, batch, size), 24)
        draws = tf.cast(bits, like.dtype) * tf.constant(2.0**-24, like.dtype)
    return tf.ensure_shape(tf.reshape(draws, tf.shape(like)), like.shape)


def midpoints(seed: tf.Tensor, like: tf.Tensor, bits: int = 15) -> tf.Tensor:
    """Returns independent draws from the 2^bits midpoints of a grid on (0, 1), as ``like``."""
    batch, size = _batch_and_size(like)
    return midpoints_of(_words(seed, batch, -(-size // 2)), like, bits)


def midpoints_of(words: tf.Tensor, like: tf.Tensor, bits: int = 15) -> tf.Tensor:
    """Turns random words into draws from the 2^bits midpoints of a regular grid on (0, 1).

    Their mean is exactly 1/2, and none of them is 0 or 1.

    Args:
      words: uint32 [batch, n], two draws each.
      like: [batch, ...] of at most 2 n numbers for each example.
      bits: how fine the grid is, 1 to 15.

    Returns:
      Draws of the shape and dtype of ``like``.

    Example:
    >>> midpoints_of(tf.constant([[0x0000FFFF]], tf.uint32), tf.zeros((1, 2)), bits=1).numpy()
    array([[0.75, 0.25]], dtype=float32)
    """
    batch, size = _batch_and_size(like)
    shorts = tf.reshape(tf.bitcast(words, tf.uint16), [batch, 2 * words.shape[1]])[:, :size]
    if bits < 15:
        shorts = tf.bitwise.right_shift(shorts, tf.constant(15 - bits, tf.uint16))
    odd = tf.bitwise.bitwise_or(shorts, tf.constant(1, tf.uint16))
    return tf.reshape(tf.cast(odd, like.dtype) * 2.0 ** -(bits + 1), tf.shape(like))


def normal(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns standard normal draws (Box-Muller), of the shape and dtype of ``like``."""
    # Half precision would round u up to 1; 1 - u lies in (0, 1], where the logarithm is finite.
    wide = tf.zeros_like(like, tf.float64 if like.dtype == tf.float64 else tf.float32)
    radius = tf.sqrt(-2 * tf.math.log(1 - uniform(fold_in(seed, 0), wide)))
    angle = tf.constant(2 * np.pi, wide.dtype) * uniform(fold_in(seed, 1), wide)
    return tf.cast(radius * tf.cos(angle), like.dtype)
