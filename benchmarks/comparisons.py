"""The comparisons: what both workers are asked, in turn, and what is made of the answers.

Ratios are normflows' number over ours, so that above 1 this library is better. Both workers
get the same weights, data and draws; they alternate, and medians over the repeats count.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np


class Worker(Protocol):
    """Answers commands; ``info`` is what it said to ``setup``."""

    info: dict[str, Any]

    def __call__(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and return its answer."""


EXACT_TERMS = 2  # in training, of both workers
INVERSE_REPEATS = 3  # at most: one of normflows' takes a minute
MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True)
class Setting:
    """The size of the model and of the measurement."""

    blocks: int = 8
    batch: int = 64
    shape: tuple[int, int, int] = (16, 16, 12)
    hidden: int = 128
    coeff: float = 0.9
    repeats: int = 7
    memory_terms: tuple[int, ...] = (5, 20, 50)
    memory_blocks: tuple[int, ...] = (8, 16, 32)

    def draws(self, repeat: int) -> list[int]:
        """The roulette's draws of all blocks for one step."""
        rng = np.random.default_rng([2, repeat])
        return [int(n) for n in rng.geometric(0.5, self.blocks)]

    def model(self) -> dict[str, Any]:
        """The arguments of both workers' setup."""
        names = ("blocks", "batch", "shape", "hidden", "coeff")
        return {name: getattr(self, name) for name in names}


def _median(answers: list[dict[str, Any]], field: str) -> float:
    return statistics.median(answer[field] for answer in answers)


def _compared(ours: float, peer: float, unit: str, **more: Any) -> dict[str, Any]:
    return {"ours": ours, "normflows": peer, "ratio": peer / ours, "unit": unit, **more}


def training_step(ours: Worker, peer: Worker, setting: Setting) -> dict[str, Any]:
    """One step each in turn, then our bare convolutions with the same draws."""
    ours("step", n=setting.draws(0)), peer("step", n=setting.draws(0))
    ours("roofline", n=setting.draws(0))
    parts: dict[str, list[dict[str, Any]]] = {"power iteration": [], "optimizer": []}
    for name in parts:
        ours("part", name=name)
    own, other, bare = [], [], []
    for repeat in range(1, setting.repeats + 1):
        n = setting.draws(repeat)
        own.append(ours("step", n=n))
        other.append(peer("step", n=n))
        bare.append(ours("roofline", n=n))
        for name, answers in parts.items():
            answers.append(ours("part", name=name))
    step = _median(own, "seconds")
    times = {"convolutions": _median(bare, "seconds")}
    times |= {name: _median(answers, "seconds") for name, answers in parts.items()}
    # Activations, their derivatives, sums, norms, probes, and what TensorFlow adds.
    times["element-wise passes and the rest"] = step - sum(times.values())
    return _compared(
        _median(own, "seconds"),
        _median(other, "seconds"),
        "s",
        cpu_ratio=_median(other, "cpu_seconds") / _median(own, "cpu_seconds"),
        where_the_time_goes={
            name: {"seconds": value, "fraction": value / step} for name, value in times.items()
        },
        # Steps differ in their draws, so each is compared with its own convolutions.
        roofline_fraction=statistics.median(
            b["seconds"] / o["seconds"] for b, o in zip(bare, own, strict=True)
        ),
    )


def inverse(ours: Worker, peer: Worker, setting: Setting) -> dict[str, Any]:
    """Both to one error: ours is tightened until its largest is no larger than normflows'.

    The median over some calls, since every call inverts new data, on which the largest errors
    differ. An error is about proportional to the tolerance, which the next guess makes use of.
    """
    # Normflows stops when every entry's step is below; its atol is the square. With 1e-5 both
    # stand where float32 rounds.
    step = 1e-4
    repeats = min(setting.repeats, INVERSE_REPEATS)

    def peers() -> dict[str, Any]:
        return peer("inverse", atol=step**2, rtol=0.0)

    target = 0.9 * _median([peers() for _ in range(repeats)], "max_error")
    atol = step
    while True:
        ours("inverse", atol=atol)  # traces
        own, other = [], []
        for _ in range(repeats):
            own.append(ours("inverse", atol=atol))
            other.append(peers())
        error = _median(own, "max_error")
        if error <= _median(other, "max_error") or atol < 1e-7:
            break
        atol *= min(target / error, 0.9)
    errors = {
        f"{name}_{field}": _median(answers, field)
        for name, answers in (("ours", own), ("normflows", other))
        for field in ("max_error", "rms_error", "evaluations")
    }
    return _compared(
        _median(own, "seconds"),
        _median(other, "seconds"),
        "s",
        ours_cpu_seconds=_median(own, "cpu_seconds"),
        normflows_cpu_seconds=_median(other, "cpu_seconds"),
        ours_atol=atol,
        **errors,
    )


def all_scales(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the inverse of a flow from those of its scales: times add up, the worst error counts.

    Args:
      rows: what `inverse` returns, for each scale.
    """
    total = {
        key: max(row[key] for row in rows) if key.endswith("error") else sum(r[key] for r in rows)
        for key in rows[0]
        if key not in ("ratio", "unit", "ours_atol")
    }
    return _compared(total.pop("ours"), total.pop("normflows"), "s", **total, scales=list(rows))


def log_det(ours: Worker, peer: Worker, setting: Setting) -> dict[str, Any]:
    """The evaluation estimate: 20 exact terms and the same draws."""
    ours("log_det", n=setting.draws(0)), peer("log_det", n=setting.draws(0))
    own, other = [], []
    for repeat in range(1, setting.repeats + 1):
        n = setting.draws(repeat)
        own.append(ours("log_det", n=n))
        other.append(peer("log_det", n=n))
    means = {
        f"{name}_mean": statistics.fmean(answer["mean"] for answer in answers)
        for name, answers in (("ours", own), ("normflows", other))
    }
    return _compared(_median(own, "seconds"), _median(other, "seconds"), "s", **means)


def memory(ours: Worker, peer: Worker, setting: Setting) -> dict[str, Any]:
    """Peak of resident memory above the base, over the first steps of both workers.

    Tracing is part of ours. The mark never falls, so the terms rise.
    """

    def peak(worker: Worker, terms: int) -> float:
        for _ in range(2):
            answer = worker("step", n=[terms - EXACT_TERMS] * setting.blocks)
        return (answer["peak_bytes"] - worker.info["base_bytes"]) / MEGABYTE

    own = {str(terms): peak(ours, terms) for terms in setting.memory_terms}
    first = setting.memory_terms[0]
    return _compared(own[str(first)], peak(peer, first), "MB", ours_by_terms=own)


def memory_by_depth(start: Callable[..., Any], setting: Setting) -> dict[str, Any]:
    """Ours at several depths and numbers of terms, stored and recomputed.

    Every depth has a process of its own, started by ``start`` with the arguments of a setup; the
    mark never falls, so the terms rise. In MB above the base.
    """
    table: dict[str, Any] = {}
    for recompute in (False, True):
        rows = table.setdefault("ours_recomputed_by_depth" if recompute else "ours_by_depth", {})
        for blocks in setting.memory_blocks:
            with start(blocks=blocks, recompute=recompute) as worker:
                row = rows.setdefault(str(blocks), {})
                for terms in setting.memory_terms:
                    for _ in range(2):
                        answer = worker("step", n=[terms - EXACT_TERMS] * blocks)
                    row[str(terms)] = (answer["peak_bytes"] - worker.info["base_bytes"]) / MEGABYTE
    return table


def with_recomputation(memory: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return the comparison of memory with the depths, and normflows' over ours recomputed.

    Args:
      memory: what `memory` returns, of a setting whose depth and fewest terms are in the table.
      table: what `memory_by_depth` returns, which begins with that depth and those terms.
    """
    first = next(iter(table["ours_recomputed_by_depth"].values()))
    recomputed = next(iter(first.values()))
    ratio = memory["normflows"] / recomputed
    return {**memory, **table, "ours_recomputed": recomputed, "ratio_recomputed": ratio}


COMPARISONS: dict[str, Callable[[Worker, Worker, Setting], dict[str, Any]]] = {
    "memory": memory,  # first, in fresh workers
    "training_step": training_step,
    "inverse": inverse,
    "log_det": log_det,
}
