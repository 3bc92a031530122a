"""Baselines as experiments: settings, equal sizes, and the command line."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import training
from tests.training.commands import invoke
from tests.training.tiny_runs import as_options
from training.baselines import ARCHITECTURES
from training.data import load_dataset
from training.errors import RunError
from training.experiments.catalog import experiment_names, load_experiment
from training.experiments.config import FlowModel, parse_experiment
from training.experiments.settings import AnyFlow
from training.loop.models import build_model, parameter_count
from training.loop.muon import Muon

# `test_baselines` runs these models in graphs, and `test_command_line` these verbs.
pytestmark = pytest.mark.usefixtures("eager_module")
SYSTEMS = ("residual", "iresnet", "idensenet", *ARCHITECTURES)
TINY = (
    "model.hidden=4",
    "batch_size=8",
    "interval=2",
    "validation_images=20",
    "schedule.warmup_steps=0",
    "eval_batch_size=50",
)


# --- settings ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_setting_makes_another_system(name):
    base = load_experiment("mnist_flow")
    changed = load_experiment("mnist_flow", [f"model.architecture={name}"])
    assert changed.model.architecture == name
    for key in AnyFlow.model_fields:
        assert getattr(changed.model, key) == getattr(base.model, key)
    assert changed.model_copy(update={"model": base.model}) == base
    for dataset in ("mnist", "cifar10"):
        assert load_experiment(f"{dataset}_flow_{name}").model.architecture == name


def test_metrics_tell_how_log_determinants_are_found():
    assert load_experiment("mnist_flow_maf").model.measured_by == {"name": "exact"}
    changes = ["model.rtol=1e-3", "model.eval_log_det.probes=2"]
    found = load_experiment("mnist_flow_ffjord", changes).model.measured_by
    solver = {"solver": "dormand_prince", "rtol": 1e-3, "atol": 1e-4}
    assert found == {"name": "hutchinson", "probes": 2, **solver}
    roulette = load_experiment("mnist_flow_iresnet").model
    assert roulette.measured_by["exact_terms"] == 4
    assert roulette.log_det.name == "power_series"


def test_half_the_size_is_a_setting_away():
    whole = load_experiment("mnist_flow_glow").model
    half = load_experiment("mnist_flow_glow", ["model.blocks=[4, 4]"]).model
    assert half == whole.model_copy(update={"blocks": (4, 4)})


def test_settings_without_an_architecture_are_those_of_residual_blocks():
    settings = load_experiment("mnist_flow").model_dump(mode="json")
    del settings["model"]["architecture"]
    assert isinstance(parse_experiment(settings).model, FlowModel)


def test_the_runs_that_are_kept_can_still_be_read():
    folders = sorted(Path(training.__file__).parent.glob("results/*/config.json"))
    assert folders
    for path in folders:
        parse_experiment(json.loads(path.read_text())["settings"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.architecture=planar"], ["model", "'planar'", "'glow'", "'iresnet'"]),
        (["model.architecture=glow", "model.coeff=0.9"], ["'model.coeff' does not exist"]),
        (["model.architecture=glow", "model.coupling=linear"], ["model.coupling='linear'"]),
        (["model.architecture=ffjord", "model.rtol=0"], ["model.rtol=0"]),
        (["model.architecture=nice", "context=class"], ["context='class'", "'nice'"]),
    ],
)
def test_what_a_baseline_cannot_be_is_named_in_one_line(changes, words):
    with pytest.raises(RunError) as caught:
        load_experiment("mnist_flow", changes)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def parameters(dataset, prepared):
    """Without averages, and without the state of an optimizer: these are no parameters."""
    spec = load_dataset(dataset, prepared).spec
    return {
        name: parameter_count(build_model(load_experiment(name, ["model.ema_momentum=none"]), spec))
        for name in (f"{dataset}_flow_{system}" for system in SYSTEMS)
    }


@pytest.mark.parametrize(
    "dataset",
    ["mnist", pytest.param("cifar10", marks=pytest.mark.soak)],
)
def test_the_systems_of_a_comparison_are_of_one_size(dataset, prepared, monkeypatch):
    for kind in (keras.optimizers.Adam, Muon):
        monkeypatch.setattr(kind, "build", lambda *_: None)
    assert {f"{dataset}_flow_{system}" for system in SYSTEMS} <= set(experiment_names())
    sizes = parameters(dataset, prepared)
    assert max(sizes.values()) < 1.2 * min(sizes.values()), sizes


# --- the command line ---


soak = pytest.mark.soak
OTHERS = [pytest.param(name, marks=soak) for name in ("nice", "realnvp", "ffjord", "maf")]


@pytest.fixture(scope="module", params=["glow", *OTHERS])
def run(request, tmp_path_factory):
    name = request.param
    folder = tmp_path_factory.mktemp("runs") / name
    blocks = {"maf": "[2]", "glow": "[1]"}.get(name, "[1, 1]")
    changes = (f"model.architecture={name}", *TINY, f"model.blocks={blocks}")
    result = invoke("train", "digits_flow", "--out", folder, "--steps", 3, *as_options(changes))
    assert result.exit_code == 0, result.output
    return name, folder


def test_the_verbs_one_after_the_other(run):
    name, folder = run
    samples, pairs, exported = folder / "s.png", folder / "r.png", folder / "saved" / "1"
    for words in (
        ("evaluate", folder, "--limit", 60),
        ("sample", folder, "--n", 4, "--out", samples),
        ("reconstruct", folder, "--out", pairs),
        ("export", folder, "--out", exported),
    ):
        result = invoke(*words)
        assert result.exit_code == 0, result.output
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["exact_terms"] is None
    assert metrics["certified_lipschitz"] is None
    estimated = name == "ffjord"
    if estimated:
        assert metrics["log_det"]["name"] == "hutchinson"
        assert (metrics["log_det"]["rtol"], metrics["log_det"]["atol"]) == (1e-4, 1e-4)
        assert metrics["estimator"]["standard_deviation"] > 0
        assert metrics["estimator"]["finite_variance"]
    else:
        assert metrics["log_det"] == {"name": "exact"}
        assert "estimator" not in metrics
    assert metrics["reconstruction"]["all_converged"]
    assert metrics["reconstruction"]["largest_error"] < (1e-2 if estimated else 1e-4)
    for picture in (samples, pairs):
        assert np.ptp(tf.io.decode_png(picture.read_bytes()).numpy()[..., :3]) > 200
    loaded = tf.saved_model.load(str(exported)).signatures
    x = tf.random.stateless_uniform((2, 8, 8, 1), [0, 1], 1.0, 16.0)
    z = loaded["encode"](x=x)["z"]
    np.testing.assert_allclose(loaded["decode"](z=z)["x"], x, rtol=0, atol=0.02)
    card = (exported / "README.md").read_text()
    assert "A SavedModel of a normalizing flow" in card
    assert "proven to be invertible" not in card


@pytest.mark.parametrize("words", [("certify",), ("export", "--out", "1", "--rescale")])
def test_nothing_is_certified(run, words):
    verb, *options = words
    result = invoke(verb, run[1], *options)
    assert result.exit_code != 0
    assert result.stderr.startswith("error: digits_flow is a baseline without residual blocks")
    assert result.stderr.count("\n") == 1
