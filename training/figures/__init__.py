"""The paper's figures and a few more, each from finished runs, as PNG, PDF and numbers."""

import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.errors import RunError
from training.figures.request import Drawing, Request
from training.figures.style import look
from training.files import new_file, write_json
from training.machine import cores, cpu_seconds, versions


class _Kind(NamedTuple):
    """A figure: its module here, the runs it is drawn from, and how few or many of them."""

    module: str
    runs: str
    least: int
    most: int | None


_KINDS = {
    "1": _Kind("trajectories", "no run; it trains two small networks", 0, 0),
    "2": _Kind("toy_density", "toy_moons_flow, then toy_moons_flow_glow", 1, 2),
    "3": _Kind("reconstructions", "mnist_classifier_c09, then mnist_classifier_vanilla", 2, 2),
    "4": _Kind("series_terms", "a flow such as digits_flow", 1, 1),
    "5": _Kind("samples", "cifar10_flow", 1, 1),
    "training_time": _Kind("training_time", "no run; it reads --results", 0, 0),
    "solver_steps": _Kind("solver_steps", "classifiers or flows that differ in c", 1, None),
    "interpolation": _Kind("interpolation", "a flow of images", 1, 1),
    "temperature": _Kind("temperature", "a flow of images", 1, 1),
}
NAMES = tuple(_KINDS)


def describe() -> str:
    """Says which runs each figure is drawn from.

    Returns:
        A line for each figure.
    """
    return "\n".join(f"{name}: {kind.runs}" for name, kind in _KINDS.items())


def write_figure(
    name: str,
    out: str | os.PathLike[str],
    *,
    runs: Sequence[str | os.PathLike[str]] = (),
    seed: int = 0,
    limit: int | None = None,
    results: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    pdf: bool = False,
) -> dict[str, Any]:
    """Draws a figure, and writes the numbers in it beside it.

    Args:
        name: "1" to "5", or the name of one of the others.
        out: the PNG file; the numbers go to the same name with `.json`.
        runs: the folders of the runs it is drawn from, in the order that `describe` gives.
        seed: of everything that is drawn.
        limit: uses so many test examples instead of the figure's own number.
        results: the folder of finished runs, for the figures that read it.
        data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.
        pdf: whether to write the same name with `.pdf` as well.

    Returns:
        What was written as JSON.

    Raises:
        RunError: there is no such figure, it needs other runs, or an argument cannot be used.
    """
    if name not in _KINDS:
        raise RunError(f"figure {name!r} does not exist; give one of {', '.join(NAMES)}")
    kind, path = _KINDS[name], Path(out)
    if path.suffix != ".png":
        raise RunError(f"--out {str(out)!r} cannot be written; name a .png file")
    if len(runs) < kind.least or (kind.most is not None and len(runs) > kind.most):
        raise RunError(f"figure {name} cannot be drawn from {len(runs)} --run; give {kind.runs}")
    if seed < 0:
        raise RunError(f"--seed {seed} cannot be used; give a number of at least 0")
    if limit is not None and limit < 1:
        raise RunError(f"--limit {limit} is too small; give at least 1")
    files = [new_file(path.with_suffix(suffix)) for suffix in (".png", ".json", ".pdf")]
    before = cpu_seconds()
    request = Request(tuple(map(Path, runs)), seed, limit, Path(results), data_dir)
    module = importlib.import_module(f"training.figures.{kind.module}")
    with look():
        drawing: Drawing = module.draw(request)
        drawing.figure.savefig(files[0], format="png", dpi=300)
        if pdf:
            drawing.figure.savefig(files[2], format="pdf")
    words = ["python", "-m", "training", "figure", name, "--out", path.name]
    for run in runs:
        words += ["--run", f"runs/{os.path.basename(os.path.abspath(run))}"]
    words += ["--seed", str(seed), *([] if limit is None else ["--limit", str(limit)])]
    content = {
        "figure": name,
        "caption": drawing.caption,
        "command": shlex.join(words),
        "seed": seed,
        "runs": request.sources(),
        "cores": cores(),
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "versions": versions(),
        "numbers": drawing.numbers,
    }
    write_json(files[1], content)
    return content
