"""Validation bits/dim against steps, of groups of runs that differ in one setting.

    python -m benchmarks.curves --out FILE.json NAME=RUN[,RUN...] ...

The first group is the one to compare with: differences are paired by seed. The picture goes
beside the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read(folder: str) -> dict[str, Any]:
    """Return a run's seed, command, steps, CPU-seconds and validation bits/dim."""
    run = Path(folder)
    metrics = json.loads((run / "metrics.json").read_text())
    history = json.loads((run / "history.json").read_text())
    return {
        "seed": metrics["seed"],
        "command": metrics["command"],
        "cpu_seconds": metrics["cpu_seconds"],
        "steps": [record["step"] for record in history],
        "bits_per_dim": [record["val_bits_per_dim"] for record in history],
    }


def compare(groups: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the groups' means, and the last values' differences from the first group's."""
    first = next(iter(groups))
    result: dict[str, Any] = {}
    for name, runs in groups.items():
        values = np.array([run["bits_per_dim"] for run in runs])
        last = values[:, -1] - np.array([run["bits_per_dim"][-1] for run in groups[first]])
        deviation = float(last.std(ddof=1)) if len(last) > 1 else None
        result[name] = {
            "runs": runs,
            "mean_bits_per_dim": values.mean(0).tolist(),
            "mean_cpu_seconds": float(np.mean([run["cpu_seconds"] for run in runs])),
            f"minus_{first}": {"mean": float(last.mean()), "standard_deviation": deviation},
        }
    return result


def picture(groups: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw every run's curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for index, (name, runs) in enumerate(groups.items()):
        for k, run in enumerate(runs):
            style = {"color": f"C{index}", "linestyle": ("-", "--", ":")[index % 3]}
            axis.plot(run["steps"], run["bits_per_dim"], label=None if k else name, **style)
    axis.set(xlabel="steps", ylabel="validation bits/dim")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN[,RUN...]")
    options = parser.parse_args(arguments)
    groups = {}
    for group in options.groups:
        name, _, folders = group.partition("=")
        if not folders:
            parser.error(f"{group!r} is no NAME=RUN[,RUN...]")
        groups[name] = sorted(map(read, folders.split(",")), key=lambda run: run["seed"])
    options.out.write_text(json.dumps(compare(groups), indent=1) + "\n")
    picture(groups, options.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
