"""CIFAR-100's path, on a small set that TensorFlow Datasets' own machinery writes."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from training.data import load_dataset
from training.experiments.catalog import load_experiment
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.finished import open_finished

SIZES = {"train": 300, "test": 40}


def examples(split):
    rng = np.random.default_rng(len(split))
    labels = rng.permutation(np.arange(SIZES[split]) % 100)
    for index, label in enumerate(labels):
        yield {
            "id": f"{split}_{index:05d}",
            "image": rng.integers(0, 256, (32, 32, 3), np.uint8),
            "label": int(label),
            "coarse_label": int(label) % 20,
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared data set with the name, the version and the features of CIFAR-100."""

    class Cifar100(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=100),
                "coarse_label": tfds.features.ClassLabel(num_classes=20),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples(split)) for split in SIZES}

        def _generate_examples(self):
            raise AssertionError

    place = tmp_path_factory.mktemp("tfds")
    Cifar100(data_dir=place).download_and_prepare()
    return place


def test_the_set_is_read_as_it_was_written(folder):
    dataset = load_dataset("cifar100", folder)
    assert (dataset.spec.event_shape, dataset.spec.num_classes) == ((32, 32, 3), 100)
    assert dataset.spec.split_sizes == {"train": 270, "validation": 30, "test": 40}
    written = list(examples("test"))
    found = dataset.arrays("test")
    np.testing.assert_array_equal(found.x, [e["image"] for e in written])
    np.testing.assert_array_equal(found.y, [e["label"] for e in written])


@pytest.mark.usefixtures("eager")
def test_an_experiment_trains_and_is_measured_on_it(folder, tmp_path):
    changes = ["model.blocks=[1]", "model.hidden=[4]", "batch_size=8", "interval=2"]
    changes += ["schedule.warmup_steps=0", "eval_batch_size=20"]
    experiment = load_experiment("cifar100_classifier_c09", changes, steps=2)
    train(experiment, tmp_path / "run", data_dir=folder, verbose=0)
    finished = open_finished(tmp_path / "run", folder)
    results = evaluate(finished)
    assert (results["images"], results["split"]) == (40, "test")
    assert 60 <= results["error_percent"] <= 100
    x, y = (np.asarray(a) for a in finished.dataset.arrays("test"))
    logits = finished.model(x / np.float32(255)).numpy()
    assert logits.shape == (40, 100)
    assert results["error_percent"] == pytest.approx(100 * np.mean(logits.argmax(1) != y))
