"""Data sets: what they hold, how they are split, and what is refused.

Statistical tests use fixed seeds, so they cannot flicker; the stated error rate is the chance
that a correct generator would have failed when the seed was chosen.
"""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from training.data import (
    KNOWN_DATASETS,
    DataError,
    eval_batches,
    load_dataset,
    train_batches,
)
from training.data.tfds_images import tfds_images

TOYS = [name for name in KNOWN_DATASETS if name.startswith("toy_")]
IMAGE_CASES = {"mnist": ((28, 28, 1), 55_000), "cifar10": ((32, 32, 3), 45_000)}


def prepare_tiny(folder: Path, name: str, *, train: int, label: str = "label") -> Path:
    """Writes a data set whose i-th image is filled with the value i, as TFDS stores it."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        label: tfds.features.ClassLabel(num_classes=3),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(train), "test": self._generate_examples(7)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": np.full((8, 8, 3), i % 256, np.uint8), label: i % 3}

    Tiny.name = name
    Tiny(data_dir=folder).download_and_prepare()
    return folder


# --- the data sets ---


@pytest.mark.parametrize(
    "name",
    # The same code reads both; of CIFAR-10 it takes ten seconds.
    ["mnist", pytest.param("cifar10", marks=pytest.mark.soak)],
)
def test_real_images_match_their_published_statistics(name, prepared):
    dataset = load_dataset(name, prepared)
    shape, train_size = IMAGE_CASES[name]
    assert dataset.spec.event_shape == shape
    assert (dataset.spec.levels, dataset.spec.num_classes) == (256, 10)
    assert dataset.spec.split_sizes == {"train": train_size, "validation": 5_000, "test": 10_000}
    parts = {split: dataset.arrays(split) for split in ("train", "validation", "test")}
    for split, (x, y) in parts.items():
        assert x.dtype == np.uint8
        assert y.dtype == np.int32
        assert x.shape == (dataset.spec.split_sizes[split], *shape)
        assert y.shape == x.shape[:1]
    labels = np.bincount(np.concatenate([parts["train"].y, parts["validation"].y]))
    count = len(parts["train"].x) + len(parts["validation"].x)
    total = sum(parts[s].x.sum(axis=(0, 1, 2), dtype=np.int64) for s in ("train", "validation"))
    means = total / (count * shape[0] * shape[1])
    if name == "mnist":
        expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert labels.tolist() == expected
        expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert np.bincount(parts["test"].y).tolist() == expected
        np.testing.assert_allclose(means / 255, [0.1307], atol=5e-5)
    else:
        assert labels.tolist() == [5_000] * 10
        assert np.bincount(parts["test"].y).tolist() == [1_000] * 10
        np.testing.assert_allclose(means, [125.3, 123.0, 113.9], atol=0.06)


def test_test_images_in_colour_match_their_published_statistics(prepared):
    """Means of red, green and blue; no other source of them is read."""
    dataset = load_dataset("cifar10", prepared)
    assert dataset.spec.event_shape == (32, 32, 3)
    assert dataset.spec.split_sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
    x, y = dataset.arrays("test")
    assert (x.shape, x.dtype, y.dtype) == ((10_000, 32, 32, 3), np.uint8, np.int32)
    assert np.bincount(y).tolist() == [1_000] * 10
    means = x.sum(axis=(0, 1, 2), dtype=np.int64) / (10_000 * 32 * 32)
    np.testing.assert_allclose(means / 255, [0.4942, 0.4851, 0.4504], atol=5e-5)


def test_validation_is_what_tfds_calls_the_last_five_thousand(prepared):
    tfds = pytest.importorskip("tensorflow_datasets")
    last = tfds.load(
        "mnist", split="train[-5000:]", data_dir=prepared, download=False, batch_size=-1
    )
    x, y = load_dataset("mnist", prepared).arrays("validation")
    np.testing.assert_array_equal(x, last["image"].numpy())
    np.testing.assert_array_equal(y, last["label"].numpy())


@pytest.mark.quick
@pytest.mark.parametrize("name", ["digits", "toy_rings", "mnist", "cifar10"])
def test_splits_are_disjoint(name, request):
    folder = request.getfixturevalue("prepared") if name in IMAGE_CASES else None
    splits = load_dataset(name, folder).spec.splits
    for a, b in itertools.combinations(splits.values(), 2):
        assert a.source != b.source or a.stop <= b.start or b.stop <= a.start


@pytest.mark.quick
def test_digits():
    dataset = load_dataset("digits")
    assert dataset.spec.event_shape == (8, 8, 1)
    assert (dataset.spec.levels, dataset.spec.num_classes, dataset.spec.dims) == (17, 10, 64)
    parts = [dataset.arrays(split) for split in ("train", "validation", "test")]
    assert [len(part.x) for part in parts] == [1297, 200, 300]
    x = np.concatenate([part.x for part in parts])
    assert (x.dtype, x.min(), x.max()) == (np.uint8, 0, 16)
    expected = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the set's authors count
    assert np.bincount(np.concatenate([part.y for part in parts])).tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        parts[0].x[0] = 0


@pytest.mark.quick
@pytest.mark.parametrize("name", TOYS)
def test_toys(name):
    dataset = load_dataset(name, toy_size=4_000, toy_seed=3)
    train, validation, test = (dataset.arrays(s) for s in ("train", "validation", "test"))
    assert dataset.spec.split_sizes == {"train": 4_000, "validation": 1_000, "test": 1_000}
    assert train.x.dtype == np.float32
    assert dataset.spec.levels is None
    points = np.concatenate([train.x, validation.x, test.x])
    assert len(np.unique(points, axis=0)) == 6_000  # no point is shared
    assert np.abs(points).max() < 5
    assert (points.std(axis=0) > 0.5).all()
    assert (np.abs(points.mean(axis=0)) < 0.25).all()
    if dataset.spec.num_classes is None:
        assert train.y is None
    else:
        assert np.unique(train.y).tolist() == list(range(dataset.spec.num_classes))
    again = load_dataset(name, toy_size=4_000, toy_seed=4).arrays("train").x
    assert not np.array_equal(again, train.x)


def test_examples_are_read_once_and_only_when_used(tmp_path):
    folder = prepare_tiny(tmp_path, "tinyonce", train=60)
    dataset = load_dataset("tinyonce", folder)
    first = dataset.arrays("train").x
    shutil.rmtree(folder / "tinyonce")
    assert np.shares_memory(dataset.arrays("train").x, first)
    assert len(dataset.arrays("validation").x) == 6
    with pytest.raises(DataError, match="prepare it again"):
        dataset.arrays("test")


def test_any_tfds_set_is_read_by_the_same_path(tmp_path):
    dataset = tfds_images("tiny", prepare_tiny(tmp_path, "tiny", train=60))
    assert dataset.spec.split_sizes == {"train": 54, "validation": 6, "test": 7}
    assert (dataset.spec.event_shape, dataset.spec.num_classes) == ((8, 8, 3), 3)
    assert dataset.arrays("train").x[:, 0, 0, 0].tolist() == list(range(54))
    assert dataset.arrays("validation").y.tolist() == [i % 3 for i in range(54, 60)]


# --- refusals ---


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_set_says_where_it_was_looked_for(tmp_path, monkeypatch):
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    text = one_line(error)
    for part in ("'mnist'", str(tmp_path), "--data-dir", "TFDS_DATA_DIR", "tfds build"):
        assert part in text
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        load_dataset("cifar100")


@pytest.mark.parametrize(
    ("name", "close"), [("toy_moon", "toy_moons"), ("cifra10", "cifar10"), ("digit", "digits")]
)
def test_an_unknown_name_lists_the_known_ones(name, close, tmp_path):
    with pytest.raises(DataError) as error:
        load_dataset(name, tmp_path)
    text = one_line(error)
    assert f"did you mean {close!r}?" in text
    assert all(known in text for known in KNOWN_DATASETS)


def test_a_set_of_another_kind_is_refused(tmp_path):
    prepare_tiny(tmp_path, "tinykind", train=20, label="colour")
    with pytest.raises(DataError) as error:
        load_dataset("tinykind", tmp_path)
    assert "colour" in one_line(error)


@pytest.mark.parametrize("damage", ["dataset_info.json", "features.json", "record"])
def test_a_damaged_set_is_refused(damage, tmp_path):
    place = prepare_tiny(tmp_path, "tinytorn", train=60) / "tinytorn" / "1.0.0"
    if damage == "record":
        (record,) = place.glob("*train.tfrecord*")
        record.write_bytes(record.read_bytes()[:-5])
    else:
        (place / damage).write_text("{")
    with pytest.raises(DataError) as error:
        load_dataset("tinytorn", tmp_path).arrays("train")
    assert "'tinytorn'" in one_line(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"seed": -1}, "seed=-1"),
        ({"start_step": -1}, "start_step=-1"),
        ({"task": "flow"}, "task='flow'.*density"),
        ({"augment": ("crop", "blur")}, "augment='blur'.*cutout"),
        ({"augment": "crop"}, r"give a tuple, such as \('crop',\)"),
        ({"dtype": "float16"}, "dtype='float16'"),
    ],
)
def test_train_batches_refuses(arguments, words):
    usual = {"batch_size": 8, "seed": 0, "task": "density"}
    with pytest.raises(ValueError, match=words):
        train_batches(load_dataset("digits"), **(usual | arguments))


def test_toys_refuse_what_they_lack():
    with pytest.raises(ValueError, match="toy_moons"):
        train_batches(load_dataset("toy_moons"), 8, seed=0, task="density", augment=("flip",))
    with pytest.raises(ValueError, match="labels"):
        train_batches(load_dataset("toy_checkerboard"), 8, seed=0, task="hybrid")
    with pytest.raises(ValueError, match="size=3"):
        load_dataset("toy_moons", toy_size=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limit": 301}, "limit=301.*300 examples.*'test'"),
        ({"limit": 0}, "limit=0"),
        ({"split": "dev"}, "split='dev'.*validation"),
        ({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_eval_batches_refuses(arguments, words):
    usual = {"split": "test", "batch_size": 8, "seed": 0, "task": "density"}
    with pytest.raises(ValueError, match=words):
        eval_batches(load_dataset("digits"), **(usual | arguments))
