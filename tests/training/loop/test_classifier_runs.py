"""A run of a classifier: trained, interrupted, measured, and shown by its card."""

import numpy as np
import pytest

from tests.training.tiny_runs import CLASSIFIER, history, weights
from tf_iresnet import certify
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop import callbacks
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.exact_check import exact_check
from training.measures.finished import open_finished
from training.measures.reconstruct import write_reconstructions
from training.measures.sample import draw_samples
from training.reports.model_card import model_card
from training.reports.saved_model import write_saved_model
from training.runs.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("eager_module")


def test_a_classifier_from_training_to_pictures(tmp_path, monkeypatch):
    experiment = load_experiment("mnist_classifier_c09", CLASSIFIER, steps=4)
    train(experiment, tmp_path / "once", verbose=0)
    save = Checkpoints.save

    def interrupted(self, step):
        if step == 4:
            raise KeyboardInterrupt
        save(self, step)

    monkeypatch.setattr(callbacks.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "twice", verbose=0)
    monkeypatch.undo()
    train(experiment, tmp_path / "twice", verbose=0)
    ours, theirs = (weights(tmp_path / name, 4) for name in ("once", "twice"))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert "val_accuracy" in history(tmp_path / "once")[-1]

    finished = open_finished(tmp_path / "once")
    metrics = evaluate(finished)
    assert 0 < metrics["error_percent"] <= 100
    certificate = certify(finished.model)
    card = model_card(finished, certificate)
    assert f"{metrics['error_percent']:.2f} % error on {metrics['images']} images" in card
    assert "divided by 16" in card
    with pytest.raises(RunError, match="--images uint8 is for images of 256 levels"):
        write_saved_model(finished, tmp_path / "1", images="uint8")
    finished.add_metrics(
        {
            "reconstruction": {
                "all_converged": False,
                "not_converged": 3,
                "images": 9,
                "largest_error": 0.5,
            }
        }
    )
    assert "3 of 9 test images was not found" in model_card(finished, certificate)
    assert metrics["images"] == 300
    assert "bits_per_dim" not in metrics
    accuracy = evaluate(finished, split="validation", limit=20)["error_percent"] / 100
    assert accuracy == pytest.approx(1 - history(tmp_path / "once")[-1]["val_accuracy"])
    assert write_reconstructions(finished, tmp_path / "r.png")["largest_error"] < 1e-4
    for use in (lambda: draw_samples(finished, 3), lambda: exact_check(finished)):
        with pytest.raises(RunError, match="is a classifier"):
            use()
