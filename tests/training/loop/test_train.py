"""Runs: what they leave behind, how they go on, and what is refused before any work."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import TINY, history, tiny, weights
from training.data import DataError
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop import callbacks
from training.loop.train import repeating_command, train
from training.runs.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("eager_module")


def test_a_run_s_folder(digits_run):
    assert [record["step"] for record in history(digits_run)] == [2, 4, 5]
    assert all(
        {"loss", "val_loss", "learning_rate"} <= record.keys() for record in history(digits_run)
    )
    assert history(digits_run)[-1]["learning_rate"] == 0.0
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["steps"] == 5
    assert metrics["cpu_seconds"] > 0
    assert metrics["certified_lipschitz"] is None
    assert metrics["command"] == "a command"
    assert metrics["validation"]["bits_per_dim"] == history(digits_run)[-1]["val_bits_per_dim"]
    for kind in ("train", "validation"):
        (events,) = (digits_run / "tensorboard" / kind).iterdir()
        tags = {
            v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) for v in e.summary.value
        }
        assert "epoch_loss" in tags
        for name in ("learning_rate", "lipschitz_bound", "lipschitz_estimate"):
            assert (f"epoch_{name}" in tags) == (kind == "train")
    for record in history(digits_run):
        assert 0.5 < record["lipschitz_bound"] < 1.5
        # What kernels are divided by is a bound, too: not as tight as that of a certificate.
        assert record["lipschitz_estimate"] == pytest.approx(record["lipschitz_bound"], rel=0.05)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(digits_run, tmp_path, monkeypatch):
    save, saved = Checkpoints.save, []

    def interrupted(self, step):
        if step == 4:
            raise KeyboardInterrupt
        save(self, step)
        saved.append(step)

    monkeypatch.setattr(callbacks.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path, verbose=0)
    assert saved == [2]
    spent = json.loads((tmp_path / "history.json").read_text())[-1]["cpu_seconds"]
    monkeypatch.undo()
    metrics = train(tiny(), tmp_path, verbose=0)
    assert metrics["cpu_seconds"] > spent
    assert history(tmp_path) == history(digits_run)
    ours, theirs = weights(tmp_path, 5), weights(digits_run, 5)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_finished_run_says_so(digits_run, capsys):
    before = (digits_run / "metrics.json").read_bytes()
    train(tiny(), digits_run, verbose=0)
    assert "is finished: 5 steps are done" in capsys.readouterr().out
    assert (digits_run / "metrics.json").read_bytes() == before


@pytest.mark.soak  # `test_muon` does so with another optimizer, in every run
def test_more_steps_continue_a_run_whose_learning_rate_does_not_end(tmp_path):
    constant = "schedule.name=constant"
    changes = [change for change in TINY if not change.startswith("schedule")]
    once = load_experiment("digits_flow", [*changes, constant], steps=4)
    train(once.model_copy(update={"steps": 2}), tmp_path / "a", verbose=0)
    train(once, tmp_path / "a", verbose=0)
    train(once, tmp_path / "b", verbose=0)
    ours, theirs = weights(tmp_path / "a", 4), weights(tmp_path / "b", 4)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.quick
def test_a_loss_that_is_no_number_ends_training(tmp_path, monkeypatch):
    changes = ("optimizer.learning_rate=1e30", "optimizer.clipnorm=none")
    with pytest.raises(RunError, match=r"is (nan|inf) at step \d.*lower optimizer\.learning_rate"):
        train(tiny(*changes), tmp_path, verbose=0)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


def test_wrong_data_are_refused_before_any_work(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="'mnist' is not prepared"):
        train(tiny(name="mnist_flow"), out, data_dir=tmp_path / "none")
    with pytest.raises(DataError, match="'digit' is unknown; did you mean 'digits'"):
        train(tiny("dataset=digit"), out)
    with pytest.raises(DataError, match="limit=201 is more than the 200"):
        train(tiny("validation_images=201"), out)
    with pytest.raises(DataError, match=r"augment=\('crop',\) is for images"):
        train(tiny("augment=['crop']", name="toy_moons_flow"), out)
    with pytest.raises(RunError, match=r"no model for 'digits'.*hidden"):
        train(tiny("model.hidden=[4, 4]"), out)
    assert not out.exists()


def test_the_command_that_repeats_a_run_names_no_folder_of_this_machine():
    command = repeating_command("digits_flow", "/some/where/a b", 5, None, ("model.blocks=[1]",))
    assert command == (
        "python -m training train digits_flow --out 'runs/a b' --steps 5 --set 'model.blocks=[1]'"
    )
