"""Measures of a finished run: evaluation, exact values, samples and reconstructions."""

import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import history, tiny
from tf_iresnet import certify
from tf_iresnet.certificate.variance import InfiniteVarianceWarning, log_det_statistics
from training.data import DataError
from training.errors import RunError
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.exact_check import exact_check
from training.measures.finished import open_finished
from training.measures.inputs import inputs_with_index
from training.measures.reconstruct import write_reconstructions
from training.measures.sample import draw_samples, write_samples
from training.runs.run import Run

pytestmark = pytest.mark.usefixtures("eager_module")


@pytest.fixture(scope="module")
def finished(digits_run, tmp_path_factory):
    """The run of digits, opened from a copy into which measures may write."""
    return open_finished(shutil.copytree(digits_run, tmp_path_factory.mktemp("opened") / "digits"))


def test_evaluation_s_numbers(finished):
    run, metrics = finished.run.folder, evaluate(finished)
    assert metrics["images"] == 300
    assert metrics["exact_terms"] == 4
    assert metrics["certified_lipschitz"] == certify(finished.model).contraction < 0.98**2 * 1.1
    assert 0 < metrics["standard_error"] < 0.1
    assert metrics["parameters"] == sum(
        math.prod(v.shape) for v in finished.model.trainable_variables
    )
    assert (
        metrics["cpu_seconds"] == json.loads((run / "history.json").read_text())[-1]["cpu_seconds"]
    )
    assert json.loads((run / "metrics.json").read_text()) == metrics
    few = evaluate(finished, split="validation", limit=7)
    assert (few["images"], few["split"]) == (7, "validation")
    few = evaluate(finished, limit=9)
    assert few["images"] == 9
    assert evaluate(open_finished(run), limit=9)["bits_per_dim"] == few["bits_per_dim"]
    # What was measured on the whole test set stays.
    assert json.loads((run / "metrics.json").read_text())["images"] == 300


def test_the_estimator_s_noise_is_that_of_its_log_determinants(finished):
    """By draws of its own: the variance of 64 images, from 16 draws, is good to a tenth or so."""
    found = evaluate(finished, limit=64)["estimator"]
    _, (x,) = next(inputs_with_index(finished, "test", 64, 64))
    estimator = finished.model.eval_log_det
    with pytest.warns(InfiniteVarianceWarning):  # the tiny run's roulette is a bold one
        own = log_det_statistics(finished.model.flow, x, seed=5, log_det=estimator, draws=16)
    deviation = math.sqrt(np.mean(own.variance)) / (64 * math.log(2))
    assert found["standard_deviation"] == pytest.approx(deviation, rel=0.25)
    assert found["finite_variance"] is own.proven_finite is False
    assert (found["images"], found["draws"]) == (64, 8)


def test_validation_in_training_is_that_of_averaged_weights(finished, digits_run):
    inside = history(digits_run)[-1]["val_bits_per_dim"]
    outside = evaluate(finished, split="validation", limit=20)["bits_per_dim"]
    assert outside == pytest.approx(inside, abs=0.02)  # other probes, the same images


def test_the_batch_of_an_evaluation_does_not_matter(finished, monkeypatch):
    once = evaluate(finished, limit=20)["bits_per_dim"]
    monkeypatch.setitem(finished.experiment.__dict__, "eval_batch_size", 7)
    assert evaluate(finished, limit=20)["bits_per_dim"] == pytest.approx(once, abs=1e-6)


def test_a_split_that_is_not_there(finished):
    with pytest.raises(DataError, match="split='tset' does not exist"):
        evaluate(finished, split="tset")
    with pytest.raises(DataError, match="limit=301"):
        evaluate(finished, limit=301)


def test_the_exact_value_lies_where_the_estimate_says(finished):
    report = exact_check(finished, images=6, draws=30)
    assert abs(report["difference"]) < 5 * report["standard_error"] + 1e-6
    assert report["estimated_bits_per_dim"] == pytest.approx(
        report["exact_bits_per_dim"] + report["difference"]
    )
    with pytest.raises(RunError, match="--draws 1 is too small"):
        exact_check(finished, images=6, draws=1)


def test_samples_are_a_function_of_seed_and_place(finished):
    many, few = draw_samples(finished, 60, seed=3), draw_samples(finished, 3, seed=3)
    assert many.shape == (60, 8, 8, 1)
    np.testing.assert_allclose(many[:3], few, atol=1e-3)
    assert not np.allclose(few, draw_samples(finished, 3, seed=4))
    spread = [draw_samples(finished, 50, temperature=t).std() for t in (0.01, 1.0)]
    assert spread[0] < spread[1]


def test_reconstructions_of_what_converges(finished, tmp_path):
    report = write_reconstructions(finished, tmp_path / "new" / "r.png")
    assert report["all_converged"]
    assert report["images"] == 300
    assert report["largest_error"] < 1e-4
    assert 0 < report["steps"]["least"] <= report["steps"]["mean"] <= report["steps"]["most"]
    assert finished.run.metrics()["reconstruction"] == report
    picture = tf.io.decode_png((tmp_path / "new" / "r.png").read_bytes()).numpy()
    assert picture.shape[0] == 3 * 60  # originals, reconstructions, differences


def test_reconstructions_of_what_does_not_converge(tmp_path):
    train(tiny("model.coeff=none", steps=1), tmp_path, verbose=0)
    finished = open_finished(tmp_path)
    for weight in finished.model.trainable_variables:
        if weight.path.endswith("kernel"):
            weight.assign(20 * weight)
    report = write_reconstructions(finished, tmp_path / "r.png")
    assert not report["all_converged"]
    assert report["not_converged"] > 250
    json.loads((tmp_path / "metrics.json").read_text())  # no NaN in it
    picture = tf.io.decode_png((tmp_path / "r.png").read_bytes()).numpy()[..., :3]
    red = (picture[..., 0] > 220) & (picture[..., 1:] < 30).all(-1)
    assert red.sum() > 1000  # frames


def test_a_toy_s_pictures_and_nats(tmp_path):
    train(tiny(name="toy_moons_flow", steps=1), tmp_path, verbose=0)
    finished = open_finished(tmp_path)
    metrics = evaluate(finished, limit=100)
    bits = -metrics["log_prob"] / (2 * math.log(2))
    assert metrics["bits_per_dim"] == pytest.approx(bits)
    write_samples(finished, tmp_path / "s.png", 20)
    assert tf.io.decode_png((tmp_path / "s.png").read_bytes()).shape[1] > 1000
    with pytest.raises(RunError, match="holds no images"):
        write_reconstructions(finished, tmp_path / "r.png")


def test_runs_of_a_folder_that_was_moved(digits_copy, finished):
    moved = digits_copy.rename(digits_copy.parent / "moved")
    assert evaluate(open_finished(moved), limit=9)["images"] == 9
    assert Run(moved).experiment() == finished.experiment
