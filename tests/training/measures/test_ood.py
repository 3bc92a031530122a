"""Areas under ROC curves against brute force, their intervals against simulation, and the verb."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.training.tiny_runs import TINY
from training.data import load_dataset
from training.data.outliers import outliers
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop.train import train
from training.measures.auroc import auroc
from training.measures.finished import Finished, open_finished
from training.measures.measuring import measure
from training.measures.ood import score_outliers
from training.runs.run import Run


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_all_pairs(ties):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 57), rng.normal(0.5, 2, 41)
    if ties:
        inside, outside = inside.round(), outside.round()
    pairs = np.sign(outside[:, None] - inside[None]) / 2 + 0.5
    found = auroc(inside, outside)
    assert found.value == pytest.approx(pairs.mean(), abs=1e-14)
    assert found.low < found.value < found.high
    u = stats.mannwhitneyu(outside, inside).statistic
    assert found.value == pytest.approx(u / (57 * 41), abs=1e-14)
    turned = auroc(outside, inside)
    np.testing.assert_allclose(turned, (1 - found.value, 1 - found.high, 1 - found.low), rtol=1e-12)
    # The variance by its definition, pair by pair; the interval by the beta distribution.
    by_outlier, by_inlier = pairs.mean(1).var(ddof=1) / 41, pairs.mean(0).var(ddof=1) / 57
    variance = by_outlier + by_inlier
    freedom = variance**2 / (by_outlier**2 / 40 + by_inlier**2 / 56)  # Welch's
    shrink = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    worth = found.value * (1 - found.value) / variance * shrink
    assert worth > 41
    won, lost = found.value * worth, (1 - found.value) * worth
    ends = stats.beta.ppf(0.025, won, lost + 1), stats.beta.ppf(0.975, won + 1, lost)
    np.testing.assert_allclose(found[1:], ends, rtol=1e-8)


def test_the_area_of_equal_scores_is_one_half():
    exact = stats.binomtest(2, 4).proportion_ci(0.95, "exact")
    found = auroc(np.zeros(5), np.zeros(4))
    assert found.value == 0.5
    np.testing.assert_allclose(found[1:], exact, rtol=1e-12)


def test_separated_scores_have_an_exact_interval():
    found = auroc(np.arange(20.0), 30 + np.arange(35.0))
    exact = stats.binomtest(20, 20).proportion_ci(0.95, "exact")
    np.testing.assert_allclose(found, (1.0, exact.low, 1.0), rtol=1e-12)
    found = auroc(30 + np.arange(35.0), np.arange(20.0))
    np.testing.assert_allclose(found, (0.0, 0.0, 1 - exact.low), rtol=1e-12)


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_wrong_scores_are_refused(scores):
    with pytest.raises(ValueError, match="outside must hold two or more scores"):
        auroc(np.zeros(3), np.array(scores))


def coverage(shift, sizes, draws):
    """How often the interval holds the area of two normals."""
    rng, truth = np.random.default_rng(1), stats.norm.cdf(shift / np.sqrt(2))
    held = 0
    for _ in range(draws):
        found = auroc(rng.normal(0, 1, sizes[0]), rng.normal(shift, 1, sizes[1]))
        held += found.low <= truth <= found.high
    return held / draws


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_intervals_hold_the_truth_as_often_as_they_say(shift):
    # Exact intervals err on the safe side.
    assert 0.94 <= coverage(shift, (60, 80), 1000) <= 0.975


@pytest.mark.soak
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("sizes", [(30, 30), (200, 50), (1000, 1000)])
def test_coverage_of_more_cases(shift, sizes):
    assert coverage(shift, sizes, 5_000) >= 0.95 - 0.015


def test_outliers_of_grey_images():
    dataset = load_dataset("digits")
    test = dataset.arrays("test").x[:5]
    sets = outliers(dataset, 5, seed=0)
    assert list(sets) == ["rotated", "inverted", "noise", "constant"]
    for images in sets.values():
        assert (images.shape, images.dtype) == ((5, 8, 8, 1), np.uint8)
        assert images.max() <= 16
    for i in range(5):
        for row in range(8):
            np.testing.assert_array_equal(sets["rotated"][i, row], test[i, :, 7 - row])
    np.testing.assert_array_equal(sets["inverted"] + test, 16)
    assert len(np.unique(sets["noise"])) == 17
    assert np.ptp(sets["constant"], axis=(1, 2)).max() == 0
    assert len(np.unique(sets["constant"])) > 1
    again, other = (outliers(dataset, 5, seed=seed)["noise"] for seed in (0, 1))
    np.testing.assert_array_equal(again, sets["noise"])
    assert (other != sets["noise"]).any()


def test_outliers_of_colour_images(prepared):
    sets = outliers(load_dataset("cifar10", prepared), 3, 0, prepared)
    assert list(sets) == ["mnist", "inverted", "noise", "constant"]
    digits = load_dataset("mnist", prepared).arrays("test").x[:3]
    for channel in range(3):
        np.testing.assert_array_equal(sets["mnist"][:, 2:30, 2:30, channel], digits[..., 0])
    assert sets["mnist"].sum(dtype=np.int64) == 3 * digits.sum(dtype=np.int64)


def test_points_have_no_outliers():
    with pytest.raises(RunError, match="'toy_moons' holds no images"):
        outliers(load_dataset("toy_moons"), 3, 0)


# `test_command_line` evaluates in graphs.
@pytest.fixture(scope="module")
def finished(tmp_path_factory, eager_module):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    changes = [*TINY, "interval=12", "model.kernel_sizes=[1]", "model.log_det.exact_terms=1"]
    train(load_experiment("digits_flow", changes, steps=12), folder, verbose=0)
    return open_finished(folder)


def test_scores_of_a_run(finished):
    results = score_outliers(finished, limit=40)
    written = json.loads((finished.run.folder / "ood.json").read_text())
    assert written == results
    assert results["command"] == "python -m training ood runs/digits --limit 40"
    assert (results["seed"], results["steps"]) == (0, 12)
    assert (finished.run.folder / "ood.png").read_bytes().startswith(b"\x89PNG")
    measured = measure(finished, "test", 40)
    assert results["test"]["bits_per_dim"] == pytest.approx(measured["bits_per_dim"], abs=1e-6)
    held_out = measure(finished, "validation", 40)["bits_per_dim"]
    assert results["validation"]["bits_per_dim"] == pytest.approx(held_out, abs=0.02)
    areas = {kind: values["auroc"] for kind, values in results["outliers"].items()}
    for values in areas.values():
        for area in values.values():
            low, high = area["interval"]
            assert 0 <= low <= area["value"] <= high <= 1
    # Uniform noise is far from any digit, by both scores.
    assert areas["noise"]["likelihood"]["value"] > 0.99
    assert areas["noise"]["typicality"]["value"] > 0.99
    assert areas["rotated"]["likelihood"]["value"] < 0.9
    again = score_outliers(finished, limit=40)
    for values in (again, results):
        values.pop("evaluation_cpu_seconds")
    assert again == results


def test_typicality_is_the_distance_from_the_mean(finished, monkeypatch):
    """Images far too likely are as suspicious as those far too unlikely."""
    test = np.linspace(1.0, 3.0, 41)
    monkeypatch.setattr("training.measures.ood.bits_of_split", lambda *a: test)
    monkeypatch.setattr("training.measures.ood._of_images", lambda *a: np.linspace(0.0, 0.9, 10))
    area = score_outliers(finished, limit=41)["outliers"]["noise"]["auroc"]
    assert area["likelihood"]["value"] == 0.0
    assert area["typicality"]["value"] == 1.0


def test_what_has_no_density_of_images_is_refused(tmp_path, finished):
    with pytest.raises(RunError, match="--limit 1 is too small"):
        score_outliers(finished, limit=1)
    for name, changes, reason in (
        ("digits_flow", ["context=class"], "has a density for each class; give an unconditional"),
        ("mnist_classifier_c09", [], "is a classifier, which has no density"),
    ):
        experiment = load_experiment(name, changes)
        other = Finished(Run(tmp_path), experiment, finished.dataset, None, 0)
        with pytest.raises(RunError, match=reason):
            score_outliers(other, limit=10)
