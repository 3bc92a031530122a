"""The command line: every verb once for real, and every refusal in one line."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.library.eager import eagerly
from tests.training.commands import command, invoke, refused
from tests.training.tiny_runs import TINY, as_options
from tf_iresnet import certify

VERBS = ("train", "evaluate", "sample", "reconstruct", "exact", "ood", "certify", "export", "list")
VERBS += ("table", "figure", "results")
FLOW_KEYS = {"bits_per_dim", "standard_error", "images", "exact_terms"}
ALWAYS_KEYS = {"cpu_seconds", "parameters", "certified_lipschitz", "command", "seed", "cores"}


# Warm-up and interval are those of the experiment, which are too long for so few steps.
FEW = as_options(
    (
        *(change for change in TINY if not change.startswith(("schedule.", "interval="))),
        "model.kernel_sizes=[3]",
    )
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, trained by the command itself."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = command("train", "digits_flow", "--out", folder, "--steps", 4, *FEW)
    assert result.returncode == 0, result.stderr
    assert "val_bits_per_dim" in result.stdout  # progress is shown
    assert "an epoch below is 4 steps" in result.stdout
    assert "4/4" in result.stdout
    remark = "schedule.warmup_steps is 0, since 100 would leave nothing of steps=4"
    assert result.stderr == f"warning: {remark}\n"
    return folder


def test_the_verbs_one_after_the_other(run):
    samples, pairs, exported = run / "s.png", run / "r.png", run / "saved" / "digits" / "1"
    for words in (
        ("evaluate", run),
        ("sample", run, "--n", 10, "--seed", 3, "--out", samples),
        ("reconstruct", run, "--out", pairs),
        ("exact", run, "--images", 2, "--draws", 3),
        ("certify", run, "--rescale", 0.3, "--images", 20),
        ("export", run, "--out", exported, "--rescale", 0.5),
    ):
        # Evaluation and the inverse have run the same graphs.
        again = words[0] in ("exact", "certify")
        with eagerly() if again else contextlib.nullcontext():
            result = invoke(*words)
        assert result.exit_code == 0, result.output
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() >= FLOW_KEYS | ALWAYS_KEYS | {"reconstruction", "exact_check"}
    assert metrics["images"] == 300
    assert metrics["experiment"] == "digits_flow"
    assert str(run.parent) not in json.dumps(metrics)
    certificate = json.loads((run / "certificate.json").read_text())
    assert certificate["invertible"]
    assert certificate["steps"] == 4
    assert metrics["certified_lipschitz"] == certificate["contraction"] > 0.9
    scaled = certificate["rescaled"]
    assert scaled["contraction"] < 0.3
    cost = scaled["validation"]
    assert cost["before"]["images"] == cost["after"]["images"] == 20
    assert cost["before"]["bits_per_dim"] != cost["after"]["bits_per_dim"]
    assert 0.49 < json.loads((exported / "certificate.json").read_text())["contraction"] < 0.5
    for picture in (samples, pairs):
        assert np.ptp(tf.io.decode_png(picture.read_bytes()).numpy()[..., :3]) > 200
    loaded = tf.saved_model.load(str(exported))
    assert {"encode", "decode", "log_prob", "sample"} <= set(loaded.signatures)
    card = (exported / "README.md").read_text()
    for words in (
        "# digits_flow\n",
        "`log_prob`",
        "float32 in [0, 17)",
        "[batch, 8, 8, 1]",
        f"{metrics['bits_per_dim']:.4f} ± {metrics['standard_error']:.4f} bits/dim on 300 images",
        "- seed: 0\n",
        "- training steps: 4\n",
    ):
        assert words in card


def test_the_same_command_again_is_done_at_once(run):
    result = invoke("train", "digits_flow", "--out", run, "--steps", 4, *FEW)
    assert result.exit_code == 0
    assert "is finished" in result.stdout


READING = {
    "train": ("digits_flow", "--out", "RUN", "--steps", 4, *FEW),
    "evaluate": ("RUN",),
    "sample": ("RUN", "--out", "new/s.png"),
    "reconstruct": ("RUN", "--out", "new/r.png"),
    "exact": ("RUN",),
    "ood": ("RUN",),
    "certify": ("RUN",),
    "export": ("RUN", "--out", "new/1"),
    "figure": ("5", "--run", "RUN", "--out", "f.png"),
}


@pytest.mark.parametrize("verb", READING)
@pytest.mark.parametrize(("name", "value"), [("alpha", 0.01), ("coeff", 0.5), ("hidden", 6)])
def test_weights_of_other_settings(verb, name, value, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["settings"]["model"][name] = value
    (copy / "config.json").write_text(json.dumps(config))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = (copy if word == "RUN" else word for word in READING[verb])
    result = invoke(verb, *words)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"error: {str(copy / 'config.json')!r} says model.{name}={value}, but the weights in "
        "checkpoint 'step-4' were trained with "
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lost_list_of_checkpoints(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "checkpoint").unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    result = invoke("train", "digits_flow", "--out", copy, "--steps", 4, *FEW)
    assert result.exit_code == 0
    assert "is finished: 4 steps are done" in result.stdout
    assert "the list of checkpoints, is lost" in result.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.quick
@pytest.mark.parametrize("verb", VERBS)
def test_help(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: python -m training {verb}")
    assert "--debug" in result.stdout


@pytest.mark.quick
def test_the_list_of_experiments():
    result = invoke("list")
    assert result.exit_code == 0
    assert "digits_flow" in result.stdout


def test_no_verb_shows_the_verbs():
    result = invoke()
    assert result.exit_code == 2
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "No such command 'trian'"),
        (("train", "digits_flow"), "Missing option '--out'"),
        (("train", "digits_flow", "--out", "x", "--steps", "many"), "'many' is not a valid"),
        (("train", "digits_flow", "--out", "x", "--steps", "0"), "steps=0"),
        (("train", "digits_flow", "--out", "x", "--seed", "-1"), "seed=-1"),
        (("train", "digits_flow", "--out", "x", "--set", "model.hiden=3"), "did you mean 'hidden'"),
        (("train", "digit_flow", "--out", "x"), "did you mean digits_flow"),
        (("train", "digits_flow", "--out", "x", "--set", "dataset=digit"), "'digit' is unknown"),
        (("train", "mnist_flow", "--out", "x", "--data-dir", "nowhere"), "--data-dir"),
        (("train", "digits_flow", "--out", "file"), "'file' is a file"),
        (("train", "digits_flow", "--out", "full"), "holds other files"),
        (("evaluate", "nowhere"), "'nowhere' is no run's folder"),
        (("sample", "full", "--out", "s.png"), "is no run's folder"),
        (("evaluate", "fresh"), "has no checkpoint yet"),
    ],
)
def test_refusals(words, message, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("x")
    (tmp_path / "fresh").mkdir()
    shutil.copy(run / "config.json", tmp_path / "fresh")
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(*words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "--n", 0, "--out", "s.png"), "--n 0 is too small"),
        (("sample", "--temperature", 0, "--out", "s.png"), "--temperature 0.0"),
        (("sample", "--temperature", "nan", "--out", "s.png"), "--temperature nan"),
        (("sample", "--out", "."), "is a folder"),
        (("evaluate", "--split", "tset"), "split='tset'"),
        (("evaluate", "--limit", 0), "limit=0"),
        (("evaluate", "--views"), "--views is for classifiers"),
        (("exact", "--images", 0), "--images 0"),
        (("certify", "--rescale", 0), "--rescale 0.0 cannot be used"),
        (("certify", "--rescale", 1.5), "--rescale 1.5 cannot be used"),
        (("export", "--out", "2", "--rescale", 2), "--rescale 2.0 cannot be used"),
        (("export", "--out", "2", "--rescale", -1), "No such option '-1'"),
        (("export", "--out", "model"), "names no version"),
        (("export", "--out", "1"), "exists"),
        (("export", "--out", "file/1"), "cannot be written"),
    ],
)
def test_refusals_of_a_run(words, message, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "file").write_text("x")
    before = (run / "metrics.json").read_bytes()
    assert message in refused(words[0], run, *words[1:])
    assert (run / "metrics.json").read_bytes() == before


def test_what_is_not_proven_is_status_1(run, monkeypatch):
    def doubtful(model):
        certificate = certify(model)
        blocks = [dataclasses.replace(block, bound=1.25) for block in certificate.blocks]
        return dataclasses.replace(certificate, blocks=tuple(blocks))

    monkeypatch.setattr("training.measures.certify.certify", doubtful)
    result = invoke("certify", run)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: not proven: scales/scale_0/block_0: the bound 1.25 is not below 1\n"
    )
    assert "| not proven |" in result.stdout
    assert not json.loads((run / "certificate.json").read_text())["invertible"]


def test_a_part_without_a_bound_is_status_1(run, tmp_path, monkeypatch):
    def unknown(model):
        raise ValueError("block cannot be certified: Lambda has no known Lipschitz constant.")

    for name in ("certify", "evaluate"):
        monkeypatch.setattr(f"training.measures.{name}.certify", unknown)
    assert "block cannot be certified" in refused("certify", run)
    assert "block cannot be certified" in refused("export", run, "--out", run / "2")
    assert not (run / "2").exists()
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "metrics.json").unlink()  # a result on all images would stay there
    with eagerly():
        assert invoke("evaluate", copy, "--limit", 20).exit_code == 0
    assert json.loads((copy / "metrics.json").read_text())["certified_lipschitz"] is None


def test_another_experiment_s_folder(run):
    assert "holds the experiment 'digits_flow'" in refused("train", "toy_moons_flow", "--out", run)
    assert "give the settings" in refused("train", "digits_flow", "--out", run)


def test_damaged_checkpoints(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for path in (copy / "checkpoints").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in refused("evaluate", copy)


def test_the_unexpected_is_one_line_too_unless_debugging(monkeypatch):
    def broken():
        raise KeyError("x")

    monkeypatch.setattr("training.cli.verbs.experiment_names", broken)
    assert refused("list") == "error: KeyError: 'x'; add --debug to see where"
    result = invoke("list", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.soak  # the fixture `run` looks at standard error in every run
def test_an_error_is_the_only_line_of_standard_error(tmp_path):
    result = command("train", "mnist_flow", "--out", tmp_path / "x", "--data-dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: data set 'mnist' is not prepared")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
