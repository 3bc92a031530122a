"""Compares this library with normflows; writes results.json and results.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparisons import (
    COMPARISONS,
    Setting,
    all_scales,
    memory_by_depth,
    with_recomputation,
)
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import markdown
from training.runs.machine import processor

HERE = Path(__file__).parent
QUICK = Setting(
    blocks=1,
    batch=4,
    shape=(4, 4, 4),
    hidden=8,
    repeats=1,
    memory_terms=(5, 7),
    memory_blocks=(1, 2),
)
# What needs no peer, each a process of its own that prints a line of JSON.
OWN = {
    "estimators": ("benchmarks.estimators",),
    "certificates": ("benchmarks.certificates",),
    "solvers": ("benchmarks.solvers", "--ratio"),
}


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

    Both estimate norms by the power iteration; the training step is compared by another pair, too,
    where ours normalises as it does by default. The weights are those of `example_weights` unless
    given.
    """
    from benchmarks.peer_normflows import example_weights  # imports torch

    results: dict[str, Any] = {"threads": threads, "repeats": setting.repeats}
    results |= {"processor": processor(), "versions": {}}
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
                    _say(name)
                    results[name] = comparison(ours, peer, setting)
        if "training_step" in results:
            with (
                WorkerProcess("benchmarks.ours", **arguments, normalization="auto") as ours,
                WorkerProcess("benchmarks.peer_normflows", **arguments) as peer,
            ):
                _say("training_step_default")
                step = COMPARISONS["training_step"](ours, peer, setting)
                step["normalization"] = ours.info["normalization"]
                results["training_step_default"] = step
    if "training_step" in results:
        for key in ("roofline_fraction", "where_the_time_goes"):
            results[key] = results["training_step"].pop(key)
            del results["training_step_default"][key]
    return results


def without_peer(setting: Setting, threads: int) -> dict[str, Any]:
    """Run what needs no peer: memory by depth, estimators, certificates, solvers."""

    def start(**changes: Any) -> WorkerProcess:
        return WorkerProcess("benchmarks.ours", threads, **{**setting.model(), **changes})

    _say("memory_by_depth")
    results: dict[str, Any] = {"memory_by_depth": memory_by_depth(start, setting)}
    for name, arguments in OWN.items():
        _say(name)
        answer = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=HERE.parent,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        results[name] = json.loads(answer.splitlines()[-1])
    results["estimator_std_ratio"] = results["estimators"]["ratio"]["control_variate"]
    results["solver_evaluations_ratio"] = results["solvers"]["least"]
    return results


def _say(name: str) -> None:
    print(f"{name} ...", file=sys.stderr, flush=True)


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
    from benchmarks.exported import scales  # imports TensorFlow

    setting = QUICK if options.quick else Setting()
    if options.repeats:
        setting = dataclasses.replace(setting, repeats=options.repeats)
    weights = None
    if options.run:
        from benchmarks.trained import first_scale  # needs what training needs

        weights, model = first_scale(options.run)
        setting = dataclasses.replace(setting, **model)
    # A part of the comparisons would replace a file of all of them.
    whole = not (options.quick or options.only or options.run)
    try:
        results = compare(setting, options.threads, options.only, weights)
        if whole:
            rows = []
            for trained, model in scales():
                own = dataclasses.replace(setting, **model)
                rows.append(compare(own, options.threads, ["inverse"], trained)["inverse"])
            results["inverse_trained"] = all_scales(rows)
            results |= without_peer(setting, options.threads)
            depths = results.pop("memory_by_depth")
            results["memory"] = with_recomputation(results["memory"], depths)
    except (WorkerError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = markdown(results)
    print(table)
    if whole:
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "results.md").write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
