"""Checkpoints that are damaged, lost, of other settings or of earlier versions."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import history, tiny, weights
from training.data import load_dataset
from training.errors import RunError
from training.loop.models import build_model
from training.loop.train import train
from training.measures.evaluate import evaluate
from training.measures.finished import open_finished
from training.runs.checkpoints import Checkpoints
from training.runs.run import Run

pytestmark = pytest.mark.usefixtures("eager_module")


def test_every_weight_is_saved(digits_run):
    experiment = tiny()
    model = build_model(experiment, load_dataset(experiment.dataset).spec)
    saved = [name for name in weights(digits_run, 5) if name.startswith("model/")]
    assert len(saved) == len(model.weights)
    assert model.average.shadows
    assert any("_kernel/" in name for name in saved)


def test_the_last_three_checkpoints_are_kept(tmp_path):
    train(tiny("interval=1", steps=4), tmp_path, verbose=0)
    steps = {path.stem for path in (tmp_path / "checkpoints").glob("*.index")}
    assert steps == {"step-2", "step-3", "step-4"}


def damage(folder, step, suffix="data-00000-of-00001"):
    path = folder / "checkpoints" / f"step-{step}.{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_the_checkpoint_before_a_damaged_one_is_taken(digits_copy, capsys):
    damage(digits_copy, 5)
    finished = open_finished(digits_copy)
    assert finished.step == 4
    captured = capsys.readouterr().err
    assert captured.startswith("warning: checkpoint ")
    assert captured.count("\n") == 1
    assert "step-5' is damaged" in captured
    metrics = evaluate(finished, limit=5)
    assert metrics["steps"] == 4
    assert "validation" not in metrics  # that was of step 5


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(digits_copy, digits_run):
    damage(digits_copy, 5)
    train(tiny(), digits_copy, verbose=0)
    assert history(digits_copy) == history(digits_run)
    for name, value in weights(digits_copy, 5).items():
        np.testing.assert_array_equal(value, weights(digits_run, 5)[name], err_msg=name)


@pytest.mark.parametrize("how", ["bits", "cut", "gone"])
def test_a_damaged_checkpoint_without_another_is_named(digits_copy, how):
    for step in (2, 4, 5):
        path = digits_copy / "checkpoints" / f"step-{step}.data-00000-of-00001"
        if how == "bits":
            damage(digits_copy, step)
        elif how == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
    with pytest.raises(RunError, match=r"step-5' is damaged .* no other can be read") as caught:
        train(tiny(), digits_copy, verbose=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "???", 'model_checkpoint_path: "step-2"'])
def test_a_lost_list_of_checkpoints_is_made_from_the_files(digits_copy, digits_run, text, capsys):
    listed = digits_copy / "checkpoints" / "checkpoint"
    listed.unlink()
    if text is not None:
        listed.write_text(text)
    damage(digits_copy, 5)
    train(tiny(), digits_copy, verbose=0)
    assert "continues after step 4" in capsys.readouterr().out
    assert history(digits_copy) == history(digits_run)
    for name, value in weights(digits_copy, 5).items():
        np.testing.assert_array_equal(value, weights(digits_run, 5)[name], err_msg=name)
    assert tf.train.latest_checkpoint(digits_copy / "checkpoints").endswith("step-5")
    assert steps_in(digits_copy / "checkpoints") == {2, 4, 5}
    assert steps_in(digits_copy / "checkpoints" / "damaged") == {5}


def steps_in(folder):
    return {int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.index")}


def test_a_lost_list_of_checkpoints_does_not_hinder_use(digits_copy, capsys):
    (digits_copy / "checkpoints" / "checkpoint").unlink()
    before = sorted(digits_copy.rglob("*"))
    assert open_finished(digits_copy).step == 5
    assert "is lost" in capsys.readouterr().err
    assert sorted(digits_copy.rglob("*")) == before


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/*"])
def test_results_whose_checkpoints_are_lost_are_not_replaced(digits_copy, lost):
    for path in list(digits_copy.glob(lost)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {path: path.read_bytes() for path in digits_copy.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="holds results, but none of the checkpoints"):
        train(tiny(), digits_copy, verbose=0)
    assert {path: path.read_bytes() for path in digits_copy.rglob("*") if path.is_file()} == before


def test_checkpoints_without_a_config_are_left_alone(digits_copy):
    (digits_copy / "config.json").unlink()
    for use in (lambda: train(tiny(), digits_copy, verbose=0), lambda: open_finished(digits_copy)):
        with pytest.raises(RunError, match=r"holds checkpoints but no config\.json"):
            use()


def edit(folder, **settings):
    """Writes other settings into a run's `config.json`; two underscores stand for a dot."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in settings.items():
        *tables, last = name.split("__")
        place = config["settings"]
        for table in tables:
            place = place[table]
        place[last] = value
    path.write_text(json.dumps(config))


EDITS = [
    ("model__hidden", 6),  # other shapes
    ("model__coeff", 0.5),
    ("model__alpha", 0.01),
    ("model__eval_log_det__exact_terms", 2),
    ("optimizer__learning_rate", 0.5),
    ("seed", 1),
    ("steps", 6),
]


@pytest.mark.parametrize(("name", "value"), EDITS, ids=[name for name, _ in EDITS])
def test_weights_of_other_settings_are_refused(digits_copy, name, value):
    edit(digits_copy, **{name: value})
    words = rf"says {name.replace('__', '.')}={value}, but the weights in checkpoint 'step-5'"
    for use in (lambda: train(tiny(), digits_copy, verbose=0), lambda: open_finished(digits_copy)):
        with pytest.raises(RunError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_run_is_refused(digits_copy, tmp_path):
    other = build_model(tiny(seed=3), load_dataset("digits").spec)
    Checkpoints(tmp_path / "other", tiny(seed=3), other).save(5)
    for path in (tmp_path / "other").glob("step-5.*"):
        shutil.copy(path, digits_copy / "checkpoints")
    with pytest.raises(RunError, match=r"says seed=0, but .* with seed=3"):
        open_finished(digits_copy)


def test_a_description_may_be_edited(digits_copy):
    edit(digits_copy, description="mine")
    assert open_finished(digits_copy).experiment.description == "mine"


def without_settings(folder):
    """Writes a run's last checkpoint as earlier versions did, and removes the others."""
    spec = load_dataset("digits").spec
    model = build_model(Run(folder).experiment(), spec)
    kept = Checkpoints(folder / "checkpoints", Run(folder).experiment(), model)
    step = kept.restore()
    shutil.rmtree(folder / "checkpoints")
    del kept._state["settings"]
    kept._of(kept._state).write(str(folder / "checkpoints" / f"step-{step}"))


def test_checkpoints_without_settings_are_read(digits_copy, digits_run):
    without_settings(digits_copy)
    ours, theirs = open_finished(digits_copy), open_finished(digits_run)
    assert ours.step == 5
    for mine, other in zip(ours.model.weights, theirs.model.weights, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_checkpoints_without_settings_that_do_not_fit_are_not_called_damaged(digits_copy):
    without_settings(digits_copy)
    edit(digits_copy, model__hidden=6)
    with pytest.raises(RunError, match=r"is of another model than config\.json describes"):
        open_finished(digits_copy)
