"""The area under the ROC curve, with confidence intervals."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Auroc(NamedTuple):
    """An area and its confidence interval.

    Args:
        value: the area.
        low: the lower end of the interval.
        high: the upper end.
    """

    value: float
    low: float
    high: float


def auroc(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> Auroc:
    """Estimates the chance that an outlier scores above an inlier, ties counting one half.

    The interval is DeLong's on the logit scale, so that it stays in [0, 1]. Scores that are
    separated without an exception have no variance to estimate: then min(m, n) disjoint pairs of an
    inlier and an outlier are so many successes without a failure, of which the exact binomial
    interval is given.

    Args:
        inside: scores of inliers, [n].
        outside: scores of outliers, [m].
        confidence: how often such intervals hold the true area.

    Returns:
        The area with its interval.

    Raises:
        ValueError: there are fewer than two of either, or a score is no number.

    Example:
        >>> auroc(np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0])).value
        0.8333333333333334

    Source: DeLong, DeLong, Clarke-Pearson 1988.
    """
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or len(scores) < 2 or np.isnan(scores).any():
            raise ValueError(f"{name} must hold two or more scores, none of them NaN")
    beaten, beating = _share_below(inside, outside), 1 - _share_below(outside, inside)
    value = float(beaten.mean())
    tail = (1 - confidence) / 2
    if value in (0.0, 1.0):
        bound = tail ** (1 / min(len(inside), len(outside)))
        return Auroc(value, bound, 1.0) if value else Auroc(value, 0.0, 1 - bound)
    variance = beaten.var(ddof=1) / len(outside) + beating.var(ddof=1) / len(inside)
    reach = NormalDist().inv_cdf(1 - tail) * math.sqrt(variance) / (value * (1 - value))
    middle = math.log(value / (1 - value))
    low, high = (_logistic(middle + sign * reach) for sign in (-1, 1))
    return Auroc(value, low, high)


def _share_below(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of the scores below each threshold, ties counting one half."""
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, thresholds, "left")
    up_to = np.searchsorted(ordered, thresholds, "right")
    return (below + up_to) / (2 * len(scores))


def _logistic(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
