"""Classifiers measured by several views of each image, against the mean made by NumPy."""

import numpy as np
import pytest

from tests.training.tiny_runs import CLASSIFIER, tiny
from training.data import load_dataset
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop.models import build_model
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.finished import Finished, open_finished
from training.runs.files import read_json
from training.runs.run import Run


def test_views_are_averaged_where_training_shifted_and_mirrored(tmp_path):
    changes = [*CLASSIFIER, 'augment=["flip", "crop"]', "interval=15", "model.ema_momentum=0.9"]
    train(load_experiment("mnist_classifier_c09", changes, steps=15), tmp_path / "run", verbose=0)
    finished = open_finished(tmp_path / "run")
    results = evaluate(finished, by_views=True)
    test = finished.dataset.arrays("test")
    x, y = np.asarray(test.x) / np.float32(16), np.asarray(test.labels)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shown = [padded[:, at : at + 8, at : at + 8] for at in (0, 1, 2)]
    logits = [finished.model(v).numpy() for view in shown for v in (view, view[:, :, ::-1])]
    wrong = [100 * np.mean(found.argmax(axis=1) != y) for found in (sum(logits), logits[2])]
    expected = {"count": 6, "split": "test", "images": 300, "error_percent": wrong[0]}
    assert results["views"] == pytest.approx(expected)
    assert results["error_percent"] == pytest.approx(wrong[1])
    assert abs(wrong[0] - wrong[1]) > 0.3  # which of the two it is shows
    assert read_json(tmp_path / "run" / "metrics.json")["views"] == results["views"]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (tiny(), r"--views is for classifiers .* task='flow' and augment"),
        (
            load_experiment("mnist_classifier_c09", CLASSIFIER),
            r"task='classifier' and augment=\(.*leave it out",
        ),
    ],
    ids=["flow", "classifier"],
)
def test_views_are_refused_where_there_are_none(tmp_path, experiment, message):
    dataset = load_dataset("digits")
    model = build_model(experiment, dataset.spec)
    with pytest.raises(RunError, match=message):
        evaluate(Finished(Run(tmp_path), experiment, dataset, model, 0), by_views=True)
    assert not list(tmp_path.iterdir())  # nothing was measured
