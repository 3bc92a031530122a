"""Training that is ended from outside, or by its own numbers, and goes on."""

import contextlib
import json
import os
import resource
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.training.commands import invoke
from tests.training.tiny_runs import TINY, as_options, history, tiny, weights
from training.data import load_dataset
from training.errors import RunError
from training.loop import callbacks
from training.loop.models import build_model
from training.loop.train import train
from training.measures.finished import open_finished
from training.runs.checkpoints import Checkpoints
from training.workers.signals import termination

pytestmark = pytest.mark.usefixtures("eager_module")
STEPS = {"steps": 7, "interval": "interval=3"}


# What is kept, and when, does not depend on the model: one kernel, few terms of series.
SMALL = (
    "model.kernel_sizes=[1]",
    "model.log_det.exact_terms=1",
    "model.eval_log_det.exact_terms=1",
)


def experiment(*changes):
    return tiny(STEPS["interval"], *SMALL, *changes, steps=STEPS["steps"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of seven steps, with checkpoints after three, six and seven."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(experiment(), folder, verbose=0)
    return folder


def assert_same_end(ours, theirs):
    assert history(ours) == history(theirs)
    mine, other = weights(ours, STEPS["steps"]), weights(theirs, STEPS["steps"])
    assert mine.keys() == other.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


def end_after(monkeypatch, step, number=signal.SIGTERM):
    before = callbacks.Steps.on_train_batch_end

    def look(self, batch, logs=None):
        if self._done + 1 == step:
            os.kill(os.getpid(), number)
        before(self, batch, logs)

    monkeypatch.setattr(callbacks.Steps, "on_train_batch_end", look)


@pytest.mark.parametrize(
    ("asked", "noted", "number"),
    [(4, [3], signal.SIGTERM), (6, [3, 6], signal.SIGINT)],
    ids=["amid", "at_the_end_of"],
)
def test_a_run_asked_to_end_in_an_interval_saves_and_goes_on(
    whole, tmp_path, monkeypatch, capsys, keyboard, asked, noted, number
):
    end_after(monkeypatch, asked, number)
    interrupted = number == signal.SIGINT
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        train(experiment(), tmp_path, verbose=0)
    monkeypatch.undo()
    assert f"step {asked} is saved; the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "metrics.json").exists()
    assert [record["step"] for record in history(tmp_path)] == noted
    assert open_finished(tmp_path).step == asked
    train(experiment(), tmp_path, verbose=0)
    # The mean over steps 4 to 6 may be one of two processes.
    assert_same_end(tmp_path, whole)


def test_a_run_asked_to_end_at_its_last_step_is_finished(whole, tmp_path, monkeypatch, capsys):
    end_after(monkeypatch, STEPS["steps"])
    train(experiment(), tmp_path, verbose=0)
    assert "finished 7 steps" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").exists()
    assert_same_end(tmp_path, whole)


def test_an_interrupted_command_saves_and_ends_with_130(tmp_path, monkeypatch, keyboard):
    end_after(monkeypatch, 2, signal.SIGINT)
    words = ["train", "digits_flow", "--out", str(tmp_path / "run"), "--steps", "7"]
    words += as_options((*TINY, "interval=5"))
    result = invoke(*words)
    assert result.exit_code == 130, result.output
    assert "asked to end: step 2 is saved; the same command" in result.stdout
    assert result.stderr == "error: interrupted; give the same command again to go on\n"
    assert open_finished(tmp_path / "run").step == 2


def test_signals_are_handled_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with termination() as request:
        assert not request.made
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.made
        assert not request.interrupted
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.fixture
def keyboard():
    """Handles SIGINT as Python does where the shell does not have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_ends_what_follows(keyboard, capfd):
    survived = []

    def interrupted():
        with termination() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.made
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # of the second one
            survived.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert survived
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capfd.readouterr().out.count("Ctrl-C again ends at once") == 1


def test_an_error_is_not_hidden_by_an_interruption(keyboard):
    def broken():
        with termination():
            os.kill(os.getpid(), signal.SIGINT)
            raise RunError("x")

    with pytest.raises(RunError, match="x"):
        broken()


def test_what_ignores_interruptions_goes_on_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with termination() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert not request.made
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    save, limit = Checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(self, step):
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
        try:
            save(self, step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    monkeypatch.setattr(Checkpoints, "save", on_a_full_disk)
    with pytest.raises(
        RunError, match=r"no checkpoint can be written.*step 3 is kept: File too large; free"
    ):
        train(experiment(), tmp_path, verbose=0)
    monkeypatch.undo()
    assert open_finished(tmp_path).step == 3
    (tmp_path / "checkpoints" / "step-5_temp").mkdir()  # of a process killed while it saved
    train(experiment(), tmp_path, verbose=0)
    assert_same_end(tmp_path, whole)
    assert {p.name.split(".")[0] for p in (tmp_path / "checkpoints").iterdir()} == {
        "checkpoint",
        "step-3",
        "step-6",
        "step-7",
    }


def test_steps_without_a_finite_loss_end_training_after_some(tmp_path):
    changes = ("optimizer.learning_rate=1e30", "optimizer.clipnorm=none", "bad_steps=3")
    with pytest.raises(
        RunError, match=r"3 training steps in a row .* not finite; .* step 4; nothing was"
    ):
        train(tiny(*changes, "interval=9", steps=9), tmp_path, verbose=0)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    spec = load_dataset("digits").spec
    model = build_model(experiment(), spec)
    state = {
        "model": {f"{i}_{weight.name}": weight.value for i, weight in enumerate(model.weights)},
        "optimizer": [variable.value for variable in model.optimizer.variables],
    }
    model.optimizer.iterations.assign(4)
    checkpoint = tf.train.Checkpoint(**state)
    tf.train.CheckpointManager(checkpoint, str(tmp_path), 3, checkpoint_name="step").save(4)
    again = build_model(experiment("seed=5"), spec)
    assert Checkpoints(tmp_path, experiment("seed=5"), again).restore() == 4
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(again.optimizer.iterations) == 4


def test_an_estimated_norm_goes_on_as_it_was(tmp_path):
    """The next step after an evaluation, whose norms are known, and after a long step."""
    settings = experiment("model.normalization=power_iteration", "model.ema_momentum=none")
    data = load_dataset("digits")
    x = data.arrays("train").x[:16]
    models = [build_model(settings, data.spec) for _ in range(2)]
    first, second = models
    first.train_on_batch(x)
    first.trainable_variables[2].assign(1.5 * first.trainable_variables[2])
    first.evaluate(x, verbose=0)
    Checkpoints(tmp_path, settings, first).save(1)
    assert Checkpoints(tmp_path, settings, second).restore() == 1
    for model in models:
        model.train_on_batch(x)
    for ours, theirs in zip(second.weights, first.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_skipped_steps_are_noted_and_saved(tmp_path, monkeypatch):
    """A batch of a loss that is no number, in the middle of a run."""
    begin = callbacks.Steps.on_train_batch_begin

    def spoil(self, batch, logs=None):
        begin(self, batch, logs)
        loc = self.model.prior.loc
        if self._done == 3:
            self.kept = loc.numpy()
            loc.assign(np.nan * loc)
        elif self._done == 4:
            assert np.isnan(loc).all()
            loc.assign(self.kept)

    monkeypatch.setattr(callbacks.Steps, "on_train_batch_begin", spoil)
    train(experiment(), tmp_path, verbose=0)
    assert [record["skipped_steps"] for record in history(tmp_path)] == [0, 1, 1]
    assert all(np.isfinite(value).all() for value in weights(tmp_path, 7).values())
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 7
