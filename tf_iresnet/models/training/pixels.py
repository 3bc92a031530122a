"""Whether numbers are dequantised pixels on [0, levels), on which a density of images is defined.

Three mistakes end in a likelihood that looks plausible: pixels without noise, pixels scaled to
[0, 1], and pixels of another number of levels. The checks hardly ever err: whole numbers with
uniform noise, for which the model is made, are refused with a probability of at most 1e-12 a batch.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.layers.dequantize import dequantize, nan_unless
from tf_iresnet.typing import DTypeLike

MANY = 256  # so many examples in [0, 1] are scaled: no data set of images is as black
_FEW = 4  # values: fewer may all be whole by chance
_ERROR_RATE = 1e-12
_NOISE = -1  # the part of a seed that is the noise of pixels

AS_INTEGERS = (
    "give the pixels as integers, as in x.astype('uint8') or data.map(lambda x: tf.cast(x, "
    "tf.uint8)); the model adds the noise itself"
)


def leave_range(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Says whether any number lies outside of [0, levels], or of [0, levels) for integers.

    Example:
    >>> bool(leave_range(tf.constant([3.0, 8.5]), 8)), bool(leave_range(tf.constant([8]), 8))
    (True, True)
    """
    if x.dtype.is_integer:
        return tf.reduce_any(~lie_inside(x, levels))
    return tf.reduce_any((x < 0) | (x > levels))  # NaN is another finding


def lie_inside(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Says of each number whether it lies in [0, levels], or of an integer in [0, levels)."""
    if x.dtype.is_integer:
        return (x >= 0) & (tf.cast(x, tf.int64) < levels)
    return (x >= 0) & (x <= levels)


def all_whole(x: tf.Tensor) -> tf.Tensor:
    """Says whether all numbers are whole, so that dequantisation was forgotten.

    With noise of at least 8 bits, which float32 has up to 65,536 levels, four numbers are whole
    with a probability of at most 2^-32, and more of them hardly ever.

    Example:
    >>> bool(all_whole(tf.zeros(9))), bool(all_whole(tf.zeros(9) + 0.5))
    (True, False)
    """
    return tf.reduce_all(tf.floor(x) == x) & (tf.size(x) >= _FEW)


def are_scaled(x: tf.Tensor, levels: int) -> tf.Tensor:
    r"""Says whether images [batch, ...] were scaled to [0, 1].

    Black images with noise lie in [0, 1) as well, but their values are uniform there. So values in
    [0, 1] are scaled if all lie on the grid k / (levels - 1) or k / levels, or if their empirical
    distribution F is not uniform: by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart,
    P(sup \|F(t) - t\| > e) <= 2 exp(-2 n e^2) for n uniform values. A batch of `MANY` examples in
    [0, 1] is scaled, however uniform.

    Example:
    >>> x = (np.arange(512.0, dtype="float32") % 256).reshape(8, 64)
    >>> bool(are_scaled(tf.constant(x), 256)), bool(are_scaled(tf.constant(x / 255), 256))
    (False, True)
    """
    within = tf.reduce_all((x >= 0) & (x <= 1)) & (tf.size(x) > 0)
    many = tf.shape(x)[0] >= MANY
    return within & (many | _look_scaled(tf.reshape(x, [1, -1]), levels)[0])


def _look_scaled(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Says of each row of numbers, [rows, n], whether it was scaled to [0, 1], bool [rows]."""
    count = tf.shape(x)[1]
    wide = tf.cast(tf.maximum(count, 1), x.dtype)
    # How far k / n, rounded to a float and multiplied by n, may be from k.
    near = tf.constant(max(1e-3, levels * 2.0**-22), x.dtype)
    on_grid = tf.zeros(tf.shape(x)[:1], tf.bool)
    for steps in (levels - 1, levels):
        at = x * steps
        on_grid |= tf.reduce_all(tf.abs(at - tf.round(at)) <= near, axis=1)
    bound = tf.sqrt(math.log(2 / _ERROR_RATE) / (2 * wide))
    skewed = tf.zeros(tf.shape(x)[:1], tf.bool)
    for t in (0.125, 0.25, 0.5, 0.75, 0.875):
        share = tf.reduce_sum(tf.cast(x <= t, x.dtype), axis=1) / wide
        skewed |= tf.abs(share - t) > bound
    within = tf.reduce_all((x >= 0) & (x <= 1), axis=1)
    return within & ((on_grid & (count >= _FEW * _FEW)) | skewed)


def pixel_findings(x: tf.Tensor, levels: int) -> dict[str, tf.Tensor]:
    """Returns which of `skipping.FINDINGS` hold for the pixels of a batch.

    Args:
      x: integers or floats, [batch, ...].
      levels: how many values a pixel takes.
    """
    found = {"outside": leave_range(x, levels)}
    if not x.dtype.is_integer:
        found |= {"whole": all_whole(x), "scaled": are_scaled(x, levels)}
    return found


def check_pixels(x: tf.Tensor | np.ndarray, levels: int, densities: bool = True) -> None:
    """Refuses, in eager code, data that are no pixels of a model with levels.

    Args:
      x: integers or floats, [batch, ...], a tensor or an array.
      levels: how many values a pixel takes.
      densities: whether likelihoods are asked for, for which pixels need their noise; else only
        the range matters.

    Raises:
      ValueError: if x leaves the range, is without noise, or was scaled to [0, 1].

    Example:
    >>> check_pixels(np.array([[0, 255]], "uint8"), 256)
    """
    if not len(x):
        return
    low, high = (float(f(np.asarray(x))) for f in (np.min, np.max))
    part = tf.convert_to_tensor(x[: 4 * MANY])
    if low < 0 or high > levels or bool(leave_range(part, levels)):
        kind = "integers" if part.dtype.is_integer else "pixels plus dequantisation noise"
        raise ValueError(
            f"x must lie in [0, {levels}), {kind}, got values from {low:g} to {high:g}; give the "
            "model as many levels as the pixels have."
        )
    if part.dtype.is_integer or not densities:
        return
    if bool(all_whole(part)):
        raise ValueError(
            f"x holds whole numbers as floats, from {low:g} to {high:g}, to which no "
            f"dequantisation noise was added; {AS_INTEGERS}."
        )
    if high <= 1 and bool(are_scaled(part, levels)):
        raise ValueError(
            f"x lies in [{low:g}, {high:g}], a sliver of [0, {levels}): images scaled to [0, 1]; "
            f"{AS_INTEGERS}."
        )


def add_noise(x: tf.Tensor, seed: tf.Tensor, levels: int, dtype: DTypeLike) -> tf.Tensor:
    """Dequantises integers with noise of a seed (`tf_iresnet.randomness`), example by example.

    Integers outside of [0, levels) make their example NaN.
    """
    whole = tf.cast(x, dtype)
    inside = (whole >= 0) & (whole < levels)
    return nan_unless(inside, dequantize(whole, randomness.fold_in(seed, _NOISE), levels))


def take_centres(x: tf.Tensor, levels: int, dtype: DTypeLike) -> tf.Tensor:
    """Returns the centres of the integers' cells, x + 1/2, without noise."""
    whole = tf.cast(x, dtype)
    return nan_unless((whole >= 0) & (whole < levels), whole + 0.5)


def have_density(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Says of each example whether it can be pixels with noise: in range, not whole, not scaled.

    Whether an example was scaled to [0, 1] is judged as in `are_scaled`, from its own values. Few
    values may not tell it from a black image.

    Args:
      x: floats, [batch, ...].
      levels: how many values a pixel takes.

    Returns:
      Bool [batch].

    Example:
    >>> x = tf.constant([[3.5, 0.2], [3.5, 8.5], [3.5, float("nan")]])
    >>> have_density(x, 8).numpy().tolist()
    [True, False, False]
    """
    flat = tf.reshape(x, [tf.shape(x)[0], x.shape[1:].num_elements()])
    good = tf.reduce_all(lie_inside(flat, levels), axis=1)
    if flat.shape[1] >= _FEW:
        good &= tf.reduce_any(tf.floor(flat) != flat, axis=1) & ~_look_scaled(flat, levels)
    return good


def nan_where_no_density(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Returns x, with NaN in each example that has no density (`have_density`); for graphs."""
    return nan_unless(have_density(x, levels)[:, None], x)
