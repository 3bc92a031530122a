"""A run's folder: what may go on in it, and what is refused."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.runs import files
from training.runs.files import read_json, write_json
from training.runs.machine import cores, cpu_seconds, processor, versions
from training.runs.run import Run

pytestmark = pytest.mark.quick

EXTENSIBLE = ["schedule.name=constant"]


@pytest.fixture
def experiment():
    return load_experiment("digits_flow")


@pytest.fixture
def begun(tmp_path, experiment):
    run = Run(tmp_path / "run")
    assert not run.check(experiment)
    assert not run.folder.exists()
    with run.locked():
        run.begin(experiment, "a command")
    return run


def test_json_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"x": float("nan"), "y": [np.inf, 1.5]})
    assert read_json(path) == {"x": None, "y": [None, 1.5]}

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", broken)
    with pytest.raises(RunError, match="No space left on device"):
        write_json(path, {"x": 2})
    assert read_json(path)["y"] == [None, 1.5]
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(RunError, match=r"a\.json' is damaged"):
        read_json(tmp_path / "a.json")


def test_the_same_settings_are_taken_again(begun, experiment):
    assert begun.check(experiment)
    assert begun.experiment() == experiment
    assert begun.command() == "a command"


def test_another_experiment_is_refused(begun):
    with pytest.raises(RunError, match="holds the experiment 'digits_flow', not 'mnist_flow'"):
        begun.check(load_experiment("mnist_flow"))


def test_other_settings_are_refused(begun):
    with pytest.raises(RunError, match=r"model\.hidden=48 where 32 is asked for.*--out"):
        begun.check(load_experiment("digits_flow", ["model.hidden=32"]))
    with pytest.raises(RunError, match=r"and 1 more"):
        begun.check(load_experiment("digits_flow", ["model.hidden=32"], seed=3))


def test_more_steps_are_refused_where_the_schedule_depends_on_them(begun, experiment):
    with pytest.raises(RunError, match="at which its learning rate ends"):
        begun.check(load_experiment("digits_flow", steps=experiment.steps + 1))


def test_more_steps_are_welcome_where_the_schedule_does_not_mind(tmp_path):
    run = Run(tmp_path)
    run.begin(load_experiment("digits_flow", EXTENSIBLE, steps=10), "")
    assert run.check(load_experiment("digits_flow", EXTENSIBLE, steps=20))
    with pytest.raises(RunError, match="steps=10 where 5"):
        run.check(load_experiment("digits_flow", EXTENSIBLE, steps=5))


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, experiment):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds other files"):
        Run(tmp_path).check(experiment)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path, experiment):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        Run(tmp_path / "file").check(experiment)
    with pytest.raises(RunError, match="cannot be written to"):
        Run(tmp_path / "file" / "below").check(experiment)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder no one can write to")
def test_an_unwritable_folder_is_refused(experiment):
    with pytest.raises(RunError, match="cannot be written to"):
        Run("/proc/self/run").check(experiment)


@pytest.mark.parametrize("text", ["[]", "{}", '{"settings": {"name": "digits_flow"}}', "x"])
def test_a_config_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        Run(tmp_path).experiment()


def test_no_run_s_folder(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.json; make one with"):
        Run(tmp_path).experiment()


def test_two_trainings_in_one_folder_are_refused(begun):
    with begun.locked():
        code = (
            "import sys; from training.runs.run import Run\n"
            "with Run(sys.argv[1]).locked(): print('both')"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(begun.folder)], capture_output=True, text=True
        )
    assert "another process trains in" in other.stderr
    assert other.stdout == ""
    with begun.locked():
        pass


def test_processor_time_counts_the_children(tmp_path):
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert cpu_seconds() - before > 0.05
    assert cores() >= 1
    assert json.dumps(versions())


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [("fma avx avx2 avx512f", ", AVX-512"), ("avx avx2", ", AVX2"), ("sse", "")],
)
def test_the_processor_is_named_with_its_widest_vectors(tmp_path, flags, vectors):
    source = tmp_path / "cpuinfo"
    source.write_text(2 * f"model name\t: A: 7\nflags\t\t: {flags}\n\n")
    assert processor(source) == "A: 7" + vectors


def test_a_processor_that_linux_does_not_describe_has_pythons_name(tmp_path):
    assert processor(tmp_path / "none") in {platform.processor(), platform.machine()}
