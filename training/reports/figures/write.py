"""From the name of a figure to its files: PNG, PDF, and the numbers in it as JSON."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from training.errors import RunError
from training.reports.figures import KINDS
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import look
from training.runs.commands import command, portable
from training.runs.files import Writer, as_json, new_file, write_files
from training.runs.machine import cores, cpu_seconds, versions
from training.typing import JsonObject, PathLike


def write_figure(
    name: str,
    out: PathLike,
    *,
    runs: Sequence[PathLike] = (),
    seed: int = 0,
    limit: int | None = None,
    results: PathLike,
    data_dir: PathLike | None = None,
    pdf: bool = False,
) -> JsonObject:
    """Draws a figure, and writes it with its numbers.

    Args:
      name: one of `KINDS`.
      out: the PNG file; the numbers go to the same name with `.json`.
      runs: the folders of the runs it is drawn from, in the order that `KINDS` gives.
      seed: of everything that is drawn.
      limit: how many test examples to use; None for the figure's own number.
      results: the folder of finished runs, for the figures that read it.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.
      pdf: whether to write the same name with `.pdf` as well.

    Returns:
      What was written as JSON.

    Raises:
      RunError: if there is no such figure, it needs other runs, or an argument cannot be used.
    """
    if name not in KINDS:
        raise RunError(f"figure {name!r} does not exist; give one of {', '.join(KINDS)}")
    kind, path = KINDS[name], Path(out)
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
    module = importlib.import_module(f"training.reports.figures.{kind.module}")
    with look():
        drawing: Drawing = module.draw(request)
    words = ["figure", name, "--out", path.name]
    for run in runs:
        words += ["--run", portable(run)]
    words += ["--seed", str(seed), *([] if limit is None else ["--limit", str(limit)])]
    content = {
        "figure": name,
        "caption": drawing.caption,
        "command": command(*words),
        "seed": seed,
        "runs": request.sources(),
        "cores": cores(),
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "versions": versions(),
        "numbers": drawing.numbers,
    }
    writers: dict[Path, Writer] = {
        files[0]: lambda file: drawing.figure.savefig(file, format="png", dpi=300),
        files[1]: as_json(content),
    }
    if pdf:
        writers[files[2]] = lambda file: drawing.figure.savefig(file, format="pdf")
    with look():
        write_files(writers)
    return content
