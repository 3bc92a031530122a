"""The page of results: what it says, and that the committed one is up to date."""

import json
from pathlib import Path

import pytest

from tests.training.commands import invoke, refused
from tests.training.reports.synthetic_results import FOUND, write_run, write_seeds
from training.reports.page import make_page

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[3]
OOD = {
    "seed": 3,
    "outliers": {
        "noise": {
            "images": 1000,
            "bits_per_dim": 9.5,
            "auroc": {
                "likelihood": {"value": 0.875, "interval": [0.85, 0.9]},
                "typicality": {"value": 0.75, "interval": [0.7, 0.8]},
            },
        }
    },
}
FIGURE = {"figure": "4", "caption": "Bias.", "command": "python -m training figure 4"}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    run = write_run(
        folder, "mnist_flow", 5, contraction=0.9, reconstruction=FOUND, cores=2, processor="Z80"
    )
    (run / "ood.json").write_text(json.dumps(OOD))
    write_seeds(folder, "mnist_classifier_c09", {0: 0.5, 1: 0.6})
    return folder


def test_the_committed_page_is_what_the_command_makes():
    made = make_page(ROOT / "training" / "results", ROOT / "docs" / "figures")
    held = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert held == made, "make it again by `python -m training results`"


def test_every_run_is_there_with_its_seed_command_and_budget(results, tmp_path):
    page = make_page(results, tmp_path / "figures")
    row = "| mnist_flow | 5 | 1.2500 ± 0.0025 bits/dim | 10000 | yes: bound 0.900 | 2.0e-06 | 345 |"
    assert f"{row} 100 | 12 | 2 | Z80 |" in page
    assert "| table2/mnist_classifier_c09_seed1 | 1 | 0.60 [0.47, 0.77] % |" in page
    assert "python -m training train mnist_flow --out runs/mnist_flow  # mnist_flow" in page
    for title in ("Table 2", "Table 3", "Table 4", "What differs from the paper"):
        assert f"## {title}" in page
    write_run(results, "toy_moons_flow", log_prob=-1.91)
    assert "bits/dim, -1.910 nats |" in make_page(results, tmp_path / "figures")
    assert "Table 1" not in page
    assert "## Figures" not in page


def test_outliers_are_shown(results, tmp_path):
    row = "| mnist_flow | noise | 9.500 | 0.875 [0.850, 0.900] | 0.750 [0.700, 0.800] | 1,000 | 3 |"
    assert row in make_page(results, tmp_path / "figures")
    (results / "mnist_flow" / "ood.json").write_text('{"outliers": {"noise": 3}}')
    out = tmp_path / "page.md"
    assert "ood.json' is damaged" in refused("results", "--results", results, "--out", out)


def test_figures_are_shown(results, tmp_path):
    figures = tmp_path / "docs" / "figures"
    figures.mkdir(parents=True)
    (figures / "four.json").write_text(json.dumps({**FIGURE, "cpu_seconds": 61.4}))
    out = tmp_path / "docs" / "page.md"
    assert invoke("results", "--results", results, "--out", out).exit_code == 0
    page = out.read_text()
    assert "![Figure 4](figures/four.png)" in page
    assert "Bias. Made by `python -m training figure 4` in 61 CPU-seconds" in page
    (figures / "four.json").write_text("{}")
    assert "four.json' is damaged" in refused("results", "--results", results, "--out", out)
    assert out.read_text() == page


def test_refusals(tmp_path):
    assert "is no folder" in refused("results", "--results", tmp_path / "x", "--out", "page.md")
