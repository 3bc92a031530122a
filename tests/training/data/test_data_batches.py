"""Batches: orders, noise, evaluation and shares.

Statistical tests use fixed seeds, so they cannot flicker; the stated error rate is the chance
that a correct generator would have failed when the seed was chosen.
"""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from training.data import (
    AUGMENTATIONS,
    KNOWN_DATASETS,
    Share,
    eval_arrays,
    eval_batches,
    load_dataset,
    train_batches,
)
from training.data.preprocess import dequantise
from training.data.randomness import example_words, shuffled_indices, stream_key
from training.data.spec import Arrays, Dataset, SplitRange

TOYS = [name for name in KNOWN_DATASETS if name.startswith("toy_")]


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def real_images(request, prepared):
    """The first real images of a test set, which also train: there are many others to read."""
    whole = load_dataset(request.param, prepared)
    arrays = Arrays(*(part[:3_000] for part in whole.arrays("test")))
    part = SplitRange("test", 0, 3_000)
    spec = dataclasses.replace(whole.spec, splits={"train": part, "test": part})
    return Dataset(spec, lambda source: arrays)


def take(batches, count):
    return list(batches.take(count).as_numpy_iterator())


# --- random numbers and orders ---


def test_words_belong_to_the_place_in_the_stream():
    whole = example_words(5, 0, 1_000, 7).numpy()
    for first, count in ((0, 1), (1, 3), (17, 400), (999, 1)):
        part = example_words(5, first, count, 7).numpy()
        np.testing.assert_array_equal(part, whole[first : first + count])
    far = 2**40  # places do not wrap at 32 bits
    assert not np.array_equal(example_words(5, far, 3, 7), example_words(5, 0, 3, 7))
    assert len({stream_key(s, p) for s in range(50) for p in ("a", "b")}) == 100


@pytest.mark.parametrize("size", [1, 2, 10, 1297])
def test_every_epoch_holds_every_example_once(size):
    row = shuffled_indices(9, 0, 3 * size, size).numpy().reshape(3, size)
    np.testing.assert_array_equal(np.sort(row, axis=1), np.tile(np.arange(size), (3, 1)))
    middle = shuffled_indices(9, size // 2, 2 * size, size).numpy()
    np.testing.assert_array_equal(middle, row.ravel()[size // 2 :][: 2 * size])


def test_orders_are_uniform():
    """Chi-squared over the 24 orders of four, error rate 1e-6."""
    rows = shuffled_indices(1, 0, 4 * 1_500, 4).numpy().reshape(-1, 4)
    _, counts = np.unique(rows @ 4 ** np.arange(4), return_counts=True)
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_neighbours_in_an_order_and_orders_of_neighbouring_epochs_are_uncorrelated():
    """Standard scores of 40 correlations, error rate 1e-5 after Bonferroni."""
    size = 45_000
    scores = []
    for key in range(20):
        row = shuffled_indices(key, 0, 2 * size, size).numpy()
        for a, b in ((row[: size - 1], row[1:size]), (row[:size], row[size:])):
            scores.append(np.corrcoef(a, b)[0, 1] * math.sqrt(len(a)))
    assert np.abs(scores).max() < stats.norm.isf(1e-5 / 80)


def test_noise_is_uniform_and_independent():
    """Kolmogorov-Smirnov on 2^20 draws and three correlations, error rate 1e-6 each."""
    images = tf.zeros([1024, 32, 32, 1], tf.uint8)
    noise = dequantise(images, stream_key(0, "noise"), 0, "float32").numpy().reshape(1024, -1)
    assert noise.min() > 0
    assert noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-6
    other = dequantise(images, stream_key(1, "noise"), 0, "float32").numpy().reshape(1024, -1)
    pairs = [(noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise, other)]
    for a, b in pairs:
        score = np.corrcoef(a.ravel(), b.ravel())[0, 1] * math.sqrt(a.size)
        assert abs(score) < stats.norm.isf(5e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dequantisation_never_leaves_the_level(dtype):
    images = tf.reshape(tf.cast(tf.range(2**20) % 256, tf.uint8), [1024, 32, 32, 1])
    x = dequantise(images, 3, 0, dtype).numpy()
    assert x.dtype == dtype
    assert x.max() < 256
    np.testing.assert_array_equal(np.floor(x), images.numpy())
    # The widest draw is exact at the highest level, so this holds for every seed.
    assert np.float32(255) + np.float32(1 - 2**-16) < 256


# --- training batches ---


@pytest.mark.parametrize("task", ["density", "classification", "conditional"])
@pytest.mark.parametrize("augment", [(), AUGMENTATIONS], ids=["plain", "augmented"])
def test_a_restart_continues_the_same_stream(task, augment):
    def batches(start):
        return train_batches(
            load_dataset("digits"), 100, seed=4, task=task, augment=augment, start_step=start
        )

    whole = take(batches(0), 30)  # past two ends of an epoch
    for start in (1, 12, 17):
        tf.nest.map_structure(
            np.testing.assert_array_equal, take(batches(start), 30 - start), whole[start:]
        )


def test_a_restart_far_away_costs_nothing():
    batches = train_batches(load_dataset("digits"), 64, seed=0, task="density", start_step=10**9)
    (x,) = take(batches, 1)
    assert x.shape == (64, 8, 8, 1)


def test_batches_of_another_size_cut_the_same_stream():
    fine, coarse = (
        train_batches(load_dataset("digits"), n, seed=4, task="density", augment=("crop",))
        for n in (50, 150)
    )
    np.testing.assert_array_equal(np.concatenate(take(fine, 30)), np.concatenate(take(coarse, 10)))


def test_batches_differ_between_steps_and_seeds():
    streams = [
        np.concatenate(take(train_batches(load_dataset("digits"), 8, seed=s, task="density"), 400))
        for s in (0, 1)
    ]
    rows = np.concatenate(streams).reshape(6_400, -1)
    assert len(np.unique(rows, axis=0)) == 6_400


@pytest.mark.parametrize("task", ["density", "classification", "hybrid"])
def test_an_epoch_of_batches_holds_the_training_set(task):
    dataset = load_dataset("digits")
    batches = train_batches(dataset, 1297, seed=0, task=task)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    spec = tf.nest.flatten(batches.element_spec)
    assert [part.shape for part in spec] == [(1297, 8, 8, 1), (1297,)][: len(spec)]
    x, y = dataset.arrays("train")
    key = np.lexsort(x.reshape(1297, -1).T)
    (batch,) = take(batches, 1)
    got, labels = batch if task != "density" else (batch, None)
    pixels = np.rint(got * 16) if task == "classification" else np.floor(got)
    order = np.lexsort(pixels.reshape(1297, -1).T)
    np.testing.assert_array_equal(pixels[order], x[key])
    if labels is not None:
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels[order], y[key])


@pytest.mark.parametrize("task", ["density", "classification"])
def test_batches_of_real_images(real_images, task):
    dataset = real_images
    batches = train_batches(dataset, 32, seed=0, task=task, augment=("crop", "flip"))
    for batch in take(batches, 3):
        x = batch if task == "density" else batch[0]
        assert x.shape == (32, *dataset.spec.event_shape)
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() < 256
        assert x.max() > 200 if task == "density" else 0.9 < x.max() <= 1


def test_toy_batches_are_the_points_themselves():
    dataset = load_dataset("toy_moons", toy_size=40)
    (x,) = take(train_batches(dataset, 40, seed=0, task="density", dtype="float64"), 1)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(
        np.unique(x, axis=0), np.unique(dataset.arrays("train").x, axis=0)
    )


# --- evaluation ---


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_sees_every_example_once_and_in_order(split):
    dataset = load_dataset("digits")
    x, y = dataset.arrays(split)
    batches = eval_batches(dataset, split, 64, seed=0, task="hybrid")
    assert batches.cardinality() == math.ceil(len(x) / 64)
    got = take(batches, -1)
    assert [len(part) for part, _ in got[:-1]] == [64] * (len(got) - 1)
    np.testing.assert_array_equal(np.floor(np.concatenate([part for part, _ in got])), x)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in got]), y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contexts_are_the_classes_of_their_images(dtype):
    dataset = load_dataset("digits")
    x, context = eval_arrays(dataset, "test", seed=0, task="conditional", dtype=dtype)
    labels = dataset.arrays("test").labels
    plain = eval_arrays(dataset, "test", seed=0, task="density", dtype=dtype)
    np.testing.assert_array_equal(x, plain)
    assert context.dtype == dtype
    np.testing.assert_array_equal(context, np.eye(10)[labels])
    options = {"seed": 3, "augment": ("crop",), "dtype": dtype}
    (got,) = take(train_batches(dataset, 40, task="conditional", **options), 1)
    (same,) = take(train_batches(dataset, 40, task="hybrid", **options), 1)
    np.testing.assert_array_equal(got[0], same[0])
    np.testing.assert_array_equal(got[1], np.eye(10)[same[1]])
    with pytest.raises(ValueError, match="task='conditional' needs labels"):
        eval_arrays(load_dataset("toy_checkerboard"), "test", seed=0, task="conditional")


def test_evaluation_noise_belongs_to_the_example():
    dataset = load_dataset("digits")
    whole = eval_arrays(dataset, "test", seed=0, task="density")
    for size in (1, 7, 300, 1_000):
        batches = eval_batches(dataset, "test", size, seed=0, task="density", limit=90)
        np.testing.assert_array_equal(np.concatenate(take(batches, -1)), whole[:90])
    assert not np.array_equal(eval_arrays(dataset, "test", seed=1, task="density"), whole)
    noise = whole % 1
    other = eval_arrays(dataset, "validation", seed=0, task="density") % 1
    assert not np.array_equal(noise[:200], other)
    assert len(np.unique(noise.reshape(300, -1), axis=0)) == 300


def test_evaluation_of_classifiers_is_scaled_only():
    dataset = load_dataset("digits")
    x, y = eval_arrays(dataset, "test", seed=0, task="classification", limit=50)
    raw, labels = dataset.arrays("test")
    np.testing.assert_array_equal(x, raw[:50].astype(np.float32) / 16)
    np.testing.assert_array_equal(y, labels[:50])
    points = eval_arrays(load_dataset("toy_spirals"), "test", seed=0, task="density")
    np.testing.assert_array_equal(points, load_dataset("toy_spirals").arrays("test").x)


def test_evaluation_of_real_images(real_images):
    dataset = real_images
    x, y = eval_arrays(dataset, "test", seed=0, task="hybrid")
    np.testing.assert_array_equal(np.floor(x), dataset.arrays("test").x)
    np.testing.assert_array_equal(y, dataset.arrays("test").y)
    some = eval_batches(dataset, "test", 333, seed=0, task="density", limit=1_000)
    np.testing.assert_array_equal(np.concatenate(take(some, -1)), x[:1_000])


# --- shares of batches ---


def in_shares(make, pipelines, local):
    """The elements of all pipelines, put together again into batches."""
    total = pipelines * local
    streams = [
        list(make(Share(p * local, local, total)).as_numpy_iterator()) for p in range(pipelines)
    ]
    batches = []
    for step in range(len(streams[0]) // local):
        parts = [s[step * local + replica] for s in streams for replica in range(local)]
        batches.append(tuple(np.concatenate(column) for column in zip(*parts, strict=True)))
    return batches


@pytest.mark.parametrize(("pipelines", "local"), [(2, 1), (1, 2), (3, 2)])
def test_shares_make_up_the_batches_without_loss_or_repetition(pipelines, local):
    dataset = load_dataset("digits")

    def train(share):
        options = {"seed": 1, "task": "hybrid", "augment": ("affine", "crop", "flip", "cutout")}
        return train_batches(dataset, 13, start_step=98, share=share, **options).take(
            4 * share.replicas
        )

    def evaluation(share):  # the last batch has one example: some replicas get none
        options = {"seed": 1, "task": "hybrid", "limit": 27}
        return eval_batches(dataset, "validation", 13, share=share, **options)

    for make in (train, evaluation):
        whole = list(make(Share()).as_numpy_iterator())
        shares = in_shares(make, pipelines, local)
        assert len(whole) == len(shares)
        for expected, got in zip(whole, shares, strict=True):
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_array_equal(a, b)
