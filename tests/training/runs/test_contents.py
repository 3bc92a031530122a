"""The files of a run that are broken or of another shape: found before any work, in one line."""

import json
from pathlib import Path

import pytest

from tests.training.commands import refused
from tests.training.tiny_runs import TINY, as_options
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop import train
from training.measures import finished
from training.runs.contents import FINISHED, HISTORY, METRICS, read_content
from training.runs.run import Run

pytestmark = pytest.mark.quick

RESULTS = Path(__file__).parents[3] / "training" / "results"
BROKEN = {
    "metrics.json": [
        ("{", "is damaged (Expecting"),
        ("[]", "the whole is [], where a table belongs"),
        ('{"steps": "5"}', "'steps' is '5', where an integer of at least 0"),
        ('{"steps": true}', "'steps' is true"),
        ('{"bits_per_dim": 2.0}', "'bits_per_dim' stands there without 'split' and 'images'"),
        ('{"bits_per_dim": NaN}', "'bits_per_dim' is nan"),
        ('{"validation": {"loss": "x"}}', "'validation.loss' is 'x', where a number, or none"),
        ('{"versions": []}', "'versions' is [], where a table"),
        ('{"reconstruction": {"images": 3}}', "'reconstruction.not_converged' is missing"),
        ('{"views": 3}', "'views' is 3"),
        ('{"experiment": "mnist_flow"}', "is of 'mnist_flow', but config.json beside it of 'dig"),
    ],
    "history.json": [
        ('[{"step": 2', "is damaged (Expecting"),
        ("{}", "the whole is {}, where a list of tables belongs"),
        ("[3]", "'0' is 3, where a table belongs"),
        ('[{"step": 2}]', "'0.cpu_seconds' is missing"),
        ('[{"step": 2, "cpu_seconds": 1.5, "loss": "x"}]', "'0.loss' is 'x', where a number"),
        ('[{"step": 2.5, "cpu_seconds": 1.5}]', "'0.step' is 2.5, where an integer of at least 1"),
        (json.dumps([{"step": 2, "cpu_seconds": 1}] * 2), "the steps do not increase"),
    ],
}
CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder in which a training has begun; no model may be built for it."""
    run = Run(tmp_path / "run")
    with run.locked():
        run.begin(load_experiment("digits_flow", TINY, steps=4), "")
    run.checkpoints.mkdir()
    monkeypatch.setattr(finished, "build_model", None)
    monkeypatch.setattr(train, "build_model", None)
    return run.folder


@pytest.mark.parametrize(("name", "text", "message"), CASES)
def test_a_broken_file_is_found_before_any_work(begun, name, text, message):
    (begun / name).write_text(text)
    again = ("train", "digits_flow", "--out", begun, "--steps", 4, *as_options(TINY))
    for words in (("evaluate", begun), ("export", begun, "--out", begun / "1"), again):
        line = refused(*words)
        assert message in line
        assert str(begun / name) in line
        assert "restore" in line
    assert (begun / name).read_text() == text


@pytest.mark.parametrize("name", ["certify", "exact", "ood", "reconstruct", "sample", "figure"])
def test_every_verb_that_reads_weights_looks_first(begun, name):
    (begun / "history.json").write_text("{}")
    out = ["--out", begun / "x.png"] if name in ("reconstruct", "sample") else []
    words = ["figure", 5, "--run", begun, "--out", begun / "x.png"]
    assert "history.json' is damaged" in refused(
        *(words if name == "figure" else [name, begun, *out])
    )


def test_results_that_were_kept_are_of_the_shape():
    kept = list(RESULTS.rglob("metrics.json"))
    assert len(kept) > 50
    for path in kept:
        assert read_content(path, METRICS) == read_content(path, FINISHED)
        history = path.parent / "history.json"
        if history.exists():
            assert read_content(history, HISTORY)


@pytest.mark.parametrize("kind", [METRICS, FINISHED])
def test_what_else_is_noted_stays(tmp_path, kind):
    noted = {"experiment": "a", "command": "b", "seed": 0, "steps": 1, "cpu_seconds": 1}
    noted |= {"parameters": 3, "mine": [{"x": None}]}
    (tmp_path / "m.json").write_text(json.dumps(noted))
    assert read_content(tmp_path / "m.json", kind) == noted


def test_numbers_that_were_not_finite_are_no_damage_to_a_run_but_to_a_table(tmp_path):
    noted = {"experiment": "a", "command": "b", "seed": 0, "steps": 1, "cpu_seconds": 1.0}
    noted |= {"parameters": 3, "bits_per_dim": None, "split": "test", "images": 9}
    (tmp_path / "m.json").write_text(json.dumps(noted))
    assert read_content(tmp_path / "m.json", METRICS) == noted
    with pytest.raises(RunError, match="'bits_per_dim' is none, where a number belongs"):
        read_content(tmp_path / "m.json", FINISHED)
