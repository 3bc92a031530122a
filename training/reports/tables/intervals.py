"""Means and differences with 95 % intervals: over seeds, or over the test examples of one run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from training.reports.tables.records import Record

_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A value with its 95 % interval, and what the interval is over: "seeds" or "test images"."""

    value: float
    low: float
    high: float
    over: str

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """Estimates the mean of a normal distribution by Student's interval, mean ± t s / sqrt(n).

    Args:
      values: one for each seed, at least two.
    """
    sample = np.asarray(values, np.float64)
    reach = stats.t.ppf((1 + _CONFIDENCE) / 2, len(sample) - 1) * stats.sem(sample)
    return Interval(sample.mean(), sample.mean() - reach, sample.mean() + reach, "seeds")


def error_rate(record: Record) -> Interval:
    """Returns one run's error in percent, with Wilson's interval over test images."""
    percent, images = record.number("error_percent"), round(record.number("images"))
    wrong = round(percent * images / 100)
    found = stats.binomtest(wrong, images).proportion_ci(_CONFIDENCE, "wilson")
    return Interval(percent, 100 * found.low, 100 * found.high, "test images")


def mean_error(runs: dict[int, Record]) -> Interval:
    """Returns an experiment's error in percent: the mean over its seeds, or that of its one run.

    Args:
      runs: the runs by seed, at least one.
    """
    if len(runs) == 1:
        return error_rate(next(iter(runs.values())))
    return mean_over_seeds([run.number("error_percent") for run in runs.values()])


def difference(runs: dict[int, Record], others: dict[int, Record]) -> Interval | None:
    """Compares two experiments, run minus other, by the seeds that both were run with.

    Runs of the same seed see the same batches. So with two seeds or more the differences of the
    pairs are a sample, to which Student's interval belongs. With one seed it is the standard error
    of the difference on test images: that of the paired mistakes where `evaluate --against` found
    it, else that of two independent proportions, which is larger.

    Args:
      runs: the runs by seed.
      others: the runs to compare with.

    Returns:
      The difference in percentage points; None if no seed is common.
    """
    common = sorted(runs.keys() & others.keys())
    if not common:
        return None
    pairs = [(runs[seed], others[seed]) for seed in common]
    differences = [
        ours.number("error_percent") - theirs.number("error_percent") for ours, theirs in pairs
    ]
    if len(common) > 1:
        return mean_over_seeds(differences)
    deviation = _paired_error(*pairs[0])
    if deviation is None:
        deviation = math.hypot(*map(_binomial_error, pairs[0]))
    reach = stats.norm.ppf((1 + _CONFIDENCE) / 2) * deviation
    value = differences[0]
    return Interval(value, value - reach, value + reach, "test images")


def _paired_error(ours: Record, theirs: Record) -> float | None:
    """Returns the standard error in percentage points, if `evaluate --against` noted it."""
    against = ours.metrics.get("against") or {}
    if against.get("experiment") != theirs.experiment or against["standard_error"] is None:
        return None
    return 100 * against["standard_error"]


def _binomial_error(record: Record) -> float:
    share = record.number("error_percent") / 100
    return 100 * math.sqrt(share * (1 - share) / record.number("images"))
