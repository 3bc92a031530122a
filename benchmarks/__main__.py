"""Compares this library with normflows; writes results.json and results.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparisons import COMPARISONS, Setting
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import markdown

HERE = Path(__file__).parent
QUICK = Setting(blocks=1, batch=4, shape=(4, 4, 4), hidden=8, repeats=1, memory_terms=(5, 7))


def missing_packages() -> list[str]:
    """The peer's packages that are not installed."""
    return [name for name in ("torch", "normflows") if find_spec(name) is None]


def compare(
    setting: Setting,
    threads: int,
    only: Sequence[str] = (),
    weights: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Run the comparisons, all with one pair of workers, and return the results.

    The weights are those of `example_weights` unless given.
    """
    from benchmarks.peer_normflows import example_weights  # imports torch

    results: dict[str, Any] = {"threads": threads, "repeats": setting.repeats, "versions": {}}
    if weights is None:
        weights = example_weights(setting.blocks, setting.shape[-1], setting.hidden, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "weights.npz")
        np.savez(path, **weights)
        arguments = {"threads": threads, "weights": path, **setting.model()}
        with (
            WorkerProcess("benchmarks.ours", **arguments) as ours,
            WorkerProcess("benchmarks.peer_normflows", **arguments) as peer,
        ):
            said = {**ours.info, **peer.info}
            for package in ("tf_iresnet", "tensorflow", "keras", "normflows", "torch"):
                results["versions"][package] = said[package]
            for name, comparison in COMPARISONS.items():
                if not only or name in only:
                    print(f"{name} ...", file=sys.stderr, flush=True)
                    results[name] = comparison(ours, peer, setting)
    if "training_step" in results:
        results["roofline_fraction"] = results["training_step"].pop("roofline_fraction")
    return results


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, once; writes no file")
    parser.add_argument("--repeats", type=_positive, help=f"default {Setting.repeats}")
    parser.add_argument("--threads", type=_positive, default=2, help="of each worker; default 2")
    parser.add_argument(
        "--only", choices=COMPARISONS, action="append", default=[], help="may be repeated"
    )
    parser.add_argument(
        "--run", help="folder of a trained flow: its first scale's weights; writes no file"
    )
    options = parser.parse_args(arguments)
    missing = missing_packages()
    if missing:
        print(f"error: {' and '.join(missing)} not installed; see `make bench`", file=sys.stderr)
        return 1
    setting = QUICK if options.quick else Setting()
    if options.repeats:
        setting = dataclasses.replace(setting, repeats=options.repeats)
    weights = None
    if options.run:
        from benchmarks.trained import first_scale  # needs what training needs

        weights, model = first_scale(options.run)
        setting = dataclasses.replace(setting, **model)
    try:
        results = compare(setting, options.threads, options.only, weights)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = markdown(results)
    print(table)
    # A part of the comparisons would replace a file of all of them.
    if not (options.quick or options.only or options.run):
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "results.md").write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
