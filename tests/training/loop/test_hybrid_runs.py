"""Hybrids on the command line's way: trained, measured, drawn, exported."""

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import TINY
from training.data import eval_arrays, load_dataset
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.experiments.config import parse_experiment
from training.loop.models import build_model
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.finished import open_finished
from training.measures.ood import score_outliers
from training.measures.reconstruct import write_reconstructions
from training.reports.saved_model import write_saved_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory, eager_module):  # `test_hybrid` trains in graphs
    folder = tmp_path_factory.mktemp("runs") / "hybrid"
    changes = [*TINY, "model.head_width=4", "model.kernel_sizes=[3]", "model.log_det.exact_terms=1"]
    experiment = load_experiment("digits_hybrid", changes, steps=4)
    metrics = train(experiment, folder, verbose=0)
    expected = {"loss", "bits_per_dim", "cross_entropy", "accuracy"}
    assert metrics["validation"].keys() == expected
    return open_finished(folder)


@pytest.mark.usefixtures("eager")
def test_evaluation_gives_both_kinds_of_results(finished):
    results = evaluate(finished, limit=30)
    x, y = eval_arrays(finished.dataset, "test", seed=0, task="hybrid", limit=30)
    logits = finished.model(x).numpy()
    assert results["error_percent"] == pytest.approx(100 * np.mean(logits.argmax(1) != y))
    bits = finished.model.bits_per_dim(x, seed=0).numpy()
    assert results["bits_per_dim"] == pytest.approx(bits.mean(), abs=0.02)
    keys = {"standard_error", "exact_terms", "estimator", "certified_lipschitz", "parameters"}
    assert results.keys() >= keys
    assert results["images"] == 30
    assert evaluate(finished, limit=30, against=finished.run)["against"]["difference"] == 0.0


@pytest.mark.usefixtures("eager")
def test_the_other_verbs(finished, tmp_path, monkeypatch):
    evaluate(finished, limit=10)  # the card tells what was measured
    assert write_reconstructions(finished, tmp_path / "r.png")["all_converged"]
    assert "noise" in score_outliers(finished, limit=10)["outliers"]
    exported = []

    def export(model, path, *, card, **options):  # `test_export` exports one
        exported.append((model, card, options))

    monkeypatch.setattr("training.reports.saved_model.export_saved_model", export)
    write_saved_model(finished, tmp_path / "1")
    ((model, card, options),) = exported
    assert model is finished.model
    assert options == {"images": "float32", "probes": 1}
    assert "bits/dim" in card
    assert "% error" in card


@pytest.mark.soak
def test_an_export_has_all_signatures(finished, tmp_path):
    write_saved_model(finished, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert {"classify", "log_prob", "sample"} <= set(signatures)


def test_the_weightings_differ_in_the_weight_alone():
    for name in ("mnist_hybrid", "cifar10_hybrid"):
        tables = {}
        for weight in ("w001", "w01", "w1"):
            settings = load_experiment(f"{name}_{weight}").model_dump()
            del settings["name"], settings["description"]
            tables[settings["model"].pop("classification_weight")] = settings
        assert list(tables) == [0.01, 0.1, 1.0]
        assert tables[0.01] == tables[0.1] == tables[1.0]


def test_settings_reach_the_model():
    changes = [*TINY, "model.label_smoothing=0.2", "model.classification_weight=3"]
    model = build_model(load_experiment("digits_hybrid", changes), load_dataset("digits").spec)
    config = model.get_config()
    assert (config["label_smoothing"], config["classification_weight"]) == (0.2, 3.0)
    assert (config["classes"], config["levels"], config["blocks"]) == (10, 17, (1,))


def test_wrong_settings_are_refused():
    settings = load_experiment("digits_hybrid").model_dump(mode="json")
    settings["model"]["classification_weight"] = 0
    with pytest.raises(RunError, match=r"model\.classification_weight=0 cannot be used"):
        parse_experiment(settings)
    experiment = load_experiment("digits_hybrid", [*TINY, "dataset=toy_checkerboard"])
    with pytest.raises(RunError, match="it has no labels"):
        build_model(experiment, load_dataset("toy_checkerboard").spec)
