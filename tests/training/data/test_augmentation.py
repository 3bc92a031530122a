"""Augmentation against images shifted, mirrored and blanked by NumPy.

A statistical test uses a fixed seed, so it cannot flicker; the stated error rate is the chance
that a correct generator would have failed when the seed was chosen.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from training.data import AUGMENTATIONS, views
from training.data.augment import AUGMENT_WORDS, augment_images
from training.data.randomness import example_words


def random_images(count, side, channels, low=1, high=256):
    rng = np.random.default_rng(0)
    return rng.integers(low, high, (count, side, side, channels)).astype(np.uint8)


@pytest.mark.parametrize("operations", [(name,) for name in AUGMENTATIONS] + [AUGMENTATIONS])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_stay_in_range(operations, channels):
    images = random_images(64, 16, channels, low=40, high=200)
    out = augment_images(
        tf.constant(images), example_words(1, 0, 64, AUGMENT_WORDS), operations
    ).numpy()
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    assert out.max() < 200
    if operations == ("flip",) or (channels == 3 and "cutout" not in operations):
        assert out.min() >= 40  # nothing empty comes in
    assert (out != images).any()


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (28, 2), (32, 4)])
@pytest.mark.parametrize(("channels", "mode"), [(1, "constant"), (3, "symmetric")])
def test_crops_are_the_shifted_images(side, reach, channels, mode):
    count = 600
    images = random_images(count, side, channels)
    words = example_words(2, 0, count, AUGMENT_WORDS)
    out = augment_images(tf.constant(images), words, ("crop",)).numpy()
    border = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(images, border, mode=mode)
    places = list(itertools.product(range(2 * reach + 1), repeat=2))
    same = np.stack(
        [(padded[:, r : r + side, c : c + side] == out).all(axis=(1, 2, 3)) for r, c in places]
    )
    np.testing.assert_array_equal(same.sum(axis=0), 1)  # each is exactly one of the shifts
    assert same.any(axis=1).all()  # and every shift occurs


def test_flips_are_mirror_images_half_the_time():
    """The number of mirrored images of 1,000, error rate 1e-6."""
    images = random_images(1_000, 8, 3)
    words = example_words(3, 0, 1_000, AUGMENT_WORDS)
    out = augment_images(tf.constant(images), words, ("flip",)).numpy()
    flipped = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (out == images).all(axis=(1, 2, 3))).all()
    assert stats.binomtest(int(flipped.sum()), 1_000).pvalue > 1e-6


def test_affine_turns_about_the_middle():
    images = np.zeros((50, 9, 9, 1), np.uint8)
    images[:, 4, 4] = 200
    words = example_words(4, 0, 50, AUGMENT_WORDS)
    out = augment_images(tf.constant(images), words, ("affine",)).numpy()
    np.testing.assert_array_equal(out[:, 4, 4], 200)
    flat = np.full((50, 9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(augment_images(tf.constant(flat), words, ("affine",)), flat)


def test_cutout_blanks_a_square():
    images = random_images(300, 16, 1)
    words = example_words(5, 0, 300, AUGMENT_WORDS)
    hole = augment_images(tf.constant(images), words, ("cutout",)).numpy()[..., 0] == 0
    rows, columns = hole.any(axis=2), hole.any(axis=1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    for side in (rows.sum(axis=1), columns.sum(axis=1)):
        assert (side.min(), side.max()) == (4, 8)  # half of a side of 16, cut off at the border
    assert hole.any(axis=0).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "constant"), (3, "symmetric")])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_views_are_the_shifted_and_mirrored_images(channels, mode, dtype):
    images = random_images(5, 6, channels).astype(dtype)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    shifted = [padded[:, at : at + 6, at : at + 6] for at in (1, 0, 2)]
    mirrored = [view[:, :, ::-1] for view in shifted]
    for operations, expected in (
        ((), shifted[:1]),
        (("affine", "cutout"), shifted[:1]),
        (("flip",), [shifted[0], mirrored[0]]),
        (("cutout", "crop"), shifted),
        (("crop", "flip"), shifted + mirrored),
    ):
        found = [view.numpy() for view in views(tf.constant(images), operations)]
        assert len(found) == len(expected)
        for view in expected:  # in any order
            assert sum(np.array_equal(view, other) for other in found) == 1
