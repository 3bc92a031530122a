"""Runs of conditional flows: every verb, and the comparison with the unconditional twin."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import TINY
from training.data import load_dataset
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop.models import build_model
from training.loop.train import train
from training.measures.certify import certify_run
from training.measures.evaluate import evaluate
from training.measures.exact_check import exact_check
from training.measures.finished import Finished, open_finished
from training.measures.reconstruct import write_reconstructions
from training.measures.sample import draw_samples, write_samples
from training.reports.saved_model import write_saved_model
from training.runs.run import Run


def trained(folder, *changes, name="digits_flow"):
    train(load_experiment(name, [*TINY, *changes], steps=2), folder, verbose=0)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, eager_module):
    """An unconditional run and its conditional twin. `test_conditional_flows` traces training."""
    folder = tmp_path_factory.mktemp("runs")
    return [open_finished(trained(folder / name, f"context={name}")) for name in ("none", "class")]


@pytest.fixture
def conditional(runs):
    return runs[1]


def test_the_model_and_its_data(runs):
    plain, conditional = runs
    assert plain.model.context_size is None
    assert conditional.model.context_size == 10
    assert (plain.is_conditional, conditional.is_conditional) == (False, True)
    kernels = [v for v in conditional.model.trainable_variables if "context_kernel" in v.path]
    assert len(kernels) == 3
    assert all(np.any(kernel) for kernel in kernels)  # trained away from zero
    with pytest.raises(RunError, match='no classes for context="class"'):
        build_model(
            load_experiment("toy_moons_flow", ["dataset=toy_checkerboard", "context=class"]),
            load_dataset("toy_checkerboard").spec,
        )


def test_evaluation_compares_image_by_image(runs, tmp_path):
    plain, conditional = runs
    first = evaluate(plain, limit=40)
    compared = evaluate(conditional, limit=40, against=plain.run)
    mean = compared["bits_per_dim"] - first["bits_per_dim"]
    found = compared["against"]
    assert found["difference"] == pytest.approx(mean, abs=1e-6)
    assert (found["images"], found["experiment"]) == (40, "digits_flow")
    # The same images, noise and probes: their spread cancels.
    assert 0 < found["standard_error"] < 0.5 * compared["standard_error"]
    written = json.loads((conditional.run.folder / "metrics.json").read_text())
    assert written["against"] == found
    again = evaluate(plain, limit=40, against=plain.run)["against"]
    assert (again["difference"], again["standard_error"]) == (0.0, 0.0)
    with pytest.raises(RunError, match="was evaluated on 40 examples, this run on 20; evaluate"):
        evaluate(conditional, limit=20, against=plain.run)
    with pytest.raises(RunError, match=r"holds no values of single examples of split 'validation'"):
        evaluate(conditional, split="validation", limit=20, against=plain.run)
    other = load_experiment("digits_flow", ["seed=3"])
    run = Run(tmp_path / "other")
    run.folder.mkdir()
    run.begin(other, "")
    with pytest.raises(RunError, match="cannot be compared: its seed is 3, here it is 0"):
        evaluate(conditional, limit=20, against=run)


def test_samples_take_the_classes_in_turn(conditional, tmp_path):
    few, more = (draw_samples(conditional, count, seed=2) for count in (3, 13))
    np.testing.assert_allclose(few, more[:3], atol=1e-5)
    other = open_finished(conditional.run.folder)
    other.model.prior.loc_kernel.assign_add(tf.one_hot([7], 10, axis=0) * tf.ones([1, 64]))
    moved = draw_samples(other, 13, seed=2)
    differs = np.abs(moved - more).max(axis=(1, 2, 3)) > 1e-3
    assert list(np.flatnonzero(differs)) == [7]
    write_samples(conditional, tmp_path / "s.png", 13)
    picture = tf.io.decode_png((tmp_path / "s.png").read_bytes())
    assert picture.shape[0] == 5 * picture.shape[1]  # ten rows of two


def test_the_other_verbs(conditional, tmp_path, monkeypatch):
    report = write_reconstructions(conditional, tmp_path / "r.png")
    assert report["all_converged"]
    assert report["largest_error"] < 1e-4
    check = exact_check(conditional, images=2, draws=2)
    assert abs(check["difference"]) < 0.1
    table, doubts = certify_run(conditional)
    assert "proven to be invertible" in table
    assert doubts == ()
    exported = []

    def export(model, path, *, card, **options):  # `test_conditional_flows` exports one
        exported.append((model, card, options))

    monkeypatch.setattr("training.reports.saved_model.export_saved_model", export)
    write_saved_model(conditional, tmp_path / "1")
    ((model, card, options),) = exported
    assert model is conditional.model
    assert options == {"images": "float32", "probes": 1}
    assert "The context is the class as a one-hot vector." in card


@pytest.mark.soak
def test_each_signature_of_an_export_takes_a_context(conditional, tmp_path):
    write_saved_model(conditional, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert all("context" in s.structured_input_signature[1] for s in signatures.values())


def test_a_conditional_density_of_points_is_drawn_for_each_class(tmp_path):
    changes = [*TINY[:2], "context=class", "model.kernel_sizes=[1, 1]"]
    experiment = load_experiment("toy_moons_flow", changes)
    dataset = load_dataset("toy_moons")
    model = build_model(experiment, dataset.spec)
    finished = Finished(Run(tmp_path / "run"), experiment, dataset, model, 0)
    write_samples(finished, tmp_path / "s.png", 20)
    picture = tf.io.decode_png((tmp_path / "s.png").read_bytes())
    assert picture.shape[1] == 4 * picture.shape[0]  # two classes, samples, data
