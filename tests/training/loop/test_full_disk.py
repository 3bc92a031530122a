"""Disks that are full: what is said, and that nothing is lost or left half-written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.training.commands import refused
from tests.training.tiny_runs import TINY, as_options
from tf_iresnet.export import export_saved_model
from tf_iresnet.models import IResNetFlow
from training.data import load_dataset
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop.models import build_model
from training.measures.finished import Finished
from training.reports import saved_model
from training.runs import files
from training.runs.files import as_json, as_text, trouble, write_files
from training.runs.run import Run

ROOT = Path(__file__).parents[3]
FULL = "the disk is full (No space left on device); free some of it, then give the same command"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, "the quota of this disk is used up (Disk quota exceeded); free some of it"),
        (errno.EACCES, "Permission denied; free the disk, or choose a folder you may write to"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
def test_several_files_are_written_all_or_none(tmp_path, monkeypatch, code, words, call):
    places = [tmp_path / name for name in ("a.txt", "b.json")]
    write_files({places[0]: as_text("old"), places[1]: as_json({"x": 1})})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = getattr(os, call), []

    def fails(*arguments, **others):
        calls.append(arguments)
        if call == "replace" or len(calls) == 2:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **others)

    monkeypatch.setattr(files.os, call, fails)
    with pytest.raises(RunError) as caught:
        write_files({places[0]: as_text("new"), places[1]: as_json({"x": 2})})
    assert words in str(caught.value)
    assert f"{str(places[call != 'replace'])!r} cannot be written: " in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_error_of_what_writes_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_files({tmp_path / "a": as_text("x"), tmp_path / "b": lambda file: 1 / 0})
    assert not list(tmp_path.iterdir())


def test_tensorflow_s_errors_are_understood():
    assert trouble(RuntimeError("{{node}} /a/b; No space left on device [Op:Save]")) in (
        f"{FULL} again"
    )
    assert trouble(RuntimeError("{{node}} /a/b; File too large")).startswith("File too large; ")
    assert trouble(RuntimeError("one\ntwo")).startswith("one; free the disk, or choose")


def export_of_a_full_disk(model, path):
    """Writes part of a SavedModel, then what TensorFlow says of a full disk."""
    Path(path).mkdir()
    (Path(path) / "saved_model.pb").write_bytes(b"half")
    place = f"{path}/variables/variables_temp/part-00000-of-00001.data-00000-of-00001"
    raise tf.errors.ResourceExhaustedError(
        None, None, f"{place}; No space left on device [Op:SaveV2]"
    )


def test_the_export_of_a_model_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", lambda m, path, **_: export_of_a_full_disk(m, path))
    flow = IResNetFlow((2,), levels=None, blocks=(1,), hidden=4)
    with pytest.raises(OSError, match="No space left on device") as caught:
        export_saved_model(flow, tmp_path / "flow" / "1")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "flow" / "1")
    assert not list((tmp_path / "flow").iterdir())


def test_the_export_of_a_run_leaves_nothing(tmp_path, monkeypatch):
    """Neither where the weights do not fit, nor where the card does not."""
    experiment = load_experiment("toy_moons_flow", ["model.blocks=[1]", "model.hidden=4"])
    dataset = load_dataset(experiment.dataset)
    model = build_model(experiment, dataset.spec)
    finished = Finished(Run(tmp_path), experiment, dataset, model, 3)
    monkeypatch.setattr(tf.saved_model, "save", lambda m, path, **_: export_of_a_full_disk(m, path))
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            saved_model.write_saved_model(finished, tmp_path / "saved" / "1")
        place = str(tmp_path / "saved" / "1")
        assert str(caught.value) == f"{place!r} cannot be written: {FULL} again"
        assert not list((tmp_path / "saved").iterdir())
        monkeypatch.setattr(tf.saved_model, "save", lambda m, path, **_: Path(path).mkdir())
        monkeypatch.setattr(Path, "write_text", no_space)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_whatever_a_verb_writes_on_a_full_disk_is_one_line(monkeypatch):
    for error, words in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"), "'/a/b' cannot be written: "),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the quota of this disk is used up"),
        (tf.errors.ResourceExhaustedError(None, None, "No space left on device"), FULL),
    ):

        def broken(error=error):
            raise error

        monkeypatch.setattr("training.cli.verbs.experiment_names", broken)
        assert refused("list").startswith(f"error: {words}")


SCRIPT = """\
import hashlib, json, os, sys
from pathlib import Path
from click.testing import CliRunner
from training.cli import main

def invoke(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stderr

def files():
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*"))
        if path.is_file() and "events" not in path.name and path.name != "filler"
    }

def fill(spare):
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - spare)

disk, options = Path(sys.argv[1]), json.loads(sys.argv[2])
run = disk / "run"
train = ("train", "digits_flow", "--out", run, *options, "--steps")
assert invoke(*train, 4)[0] == 0
out = {}
fill(0)
for name, words in {
    "evaluate": (run, "--limit", 8),
    "sample": (run, "--n", 3, "--out", disk / "s.png"),
    "reconstruct": (run, "--out", disk / "r.png"),
    "certify": (run,),
    "export": (run, "--out", disk / "1"),
    "figure": (5, "--run", run, "--limit", 3, "--out", disk / "f.png"),
    "table": (4, "--results", disk / "results", "--out", disk / "t.md"),
}.items():
    (disk / "results").mkdir(exist_ok=True)
    before = files()
    out[name] = *invoke(name, *words), files() == before
# Room for the notes, and not for the weights.
os.remove(disk / "filler")
fill(5 * 4096)
before = {name: seal for name, seal in files().items() if "checkpoints" in name}
status, error = invoke(*train, 8)
after = files()
out["train"] = status, error, all(after.get(name) == seal for name, seal in before.items())
os.remove(disk / "filler")
assert invoke(*train, 8)[0] == 0
print(json.dumps(out))
"""


@pytest.mark.soak
def test_a_full_disk_loses_nothing(tmp_path):
    """On a small disk of its own, by every verb that writes."""
    changes = [change for change in TINY if not change.startswith("schedule")]
    options = as_options((*changes, "schedule.name=constant"))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=600k none {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    command = [sys.executable, "-c", SCRIPT, str(disk), json.dumps(options)]
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mounted} && exec "$@"', "sh", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for verb, (status, error, kept) in found.items():
        assert status == 1, (verb, error)
        assert FULL in error, (verb, error)
        assert error.splitlines()[-1].startswith("error: "), (verb, error)
        assert str(disk) in error, (verb, error)
        assert kept, verb
    assert "step 4 is kept: the disk is full" in found["train"][1]
