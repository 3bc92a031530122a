"""The area under the ROC curve, with confidence intervals."""

from typing import NamedTuple

import numpy as np
from scipy import special


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

    With DeLong's variance V the area A is worth N = A (1 - A) / V (z / t)^2 independent pairs of an
    inlier and an outlier, z and t being the normal's quantile and Student's for Welch's degrees of
    freedom. N is never below min(m, n), since so many pairs are disjoint. The interval is the exact
    binomial one of N A successes in N trials (Korn and Graubard). 95 % intervals of normal scores
    hold an area of up to 0.98 in 93 % of cases or more. They hold a larger one, where few of either
    kind are on the wrong side, in as few as 90 %.

    Args:
      inside: scores of inliers, [n].
      outside: scores of outliers, [m].
      confidence: how often such intervals hold the true area.

    Raises:
      ValueError: if there are fewer than two of either, or a score is no number.

    Example:
    >>> auroc(np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0])).value
    0.8333333333333333

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988; Korn, Graubard, Survey Methodology
    24, 1998.
    """
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or len(scores) < 2 or np.isnan(scores).any():
            raise ValueError(f"{name} must hold two or more scores, none of them NaN")
    beaten, beating = _share_below(inside, outside), 1 - _share_below(outside, inside)
    value = float(beaten.mean())
    tail = (1 - confidence) / 2
    pairs = float(min(len(inside), len(outside)))
    parts = [beaten.var(ddof=1) / len(outside), beating.var(ddof=1) / len(inside)]
    variance = sum(parts)
    if variance > 0:  # it is zero of scores that are all separated, or all equal
        freedom = variance**2 / (
            parts[0] ** 2 / (len(outside) - 1) + parts[1] ** 2 / (len(inside) - 1)
        )
        shrink = (special.ndtri(tail) / special.stdtrit(freedom, tail)) ** 2
        pairs = max(pairs, value * (1 - value) / variance * shrink)
    successes, failures = value * pairs, (1 - value) * pairs
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return Auroc(value, float(low), float(high))


def _share_below(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of the scores below each threshold, ties counting one half."""
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, thresholds, "left")
    up_to = np.searchsorted(ordered, thresholds, "right")
    return (below + up_to) / (2 * len(scores))
