"""Bounds and estimates of convolutions' norms against dense singular values: one line of JSON.

    python -m benchmarks.certificates [--kernels 40]

Random 3x3 kernels, half of them non-negative, on 8x8. What research code takes for the norm are
five power iterations from a random start, an estimate from below.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_iresnet.bounds.dense import dense_matrix
from tf_iresnet.norms import conv_norm_bound, power_iteration

SIZES = (8, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certificates", description=__doc__)
    parser.add_argument("--kernels", type=int, default=40)
    options = parser.parse_args(arguments)
    methods: dict[str, Callable[[np.ndarray], Any]] = {
        "bound, every size": conv_norm_bound,
        "bound, this size": lambda kernel: conv_norm_bound(kernel, SIZES),
        "five power iterations": lambda kernel: (
            power_iteration(kernel, SIZES, iterations=5, tolerance=0.0).sigma
        ),
    }
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((3, 3, 4, 16)) for _ in range(options.kernels)]
    kernels = [np.abs(k) if index % 2 else k for index, k in enumerate(kernels)]
    truths = [np.linalg.norm(dense_matrix(kernel, SIZES), 2) for kernel in kernels]
    result: dict[str, Any] = {"kernels": len(kernels)}
    for name, method in methods.items():
        method(kernels[0])  # what is compiled once
        began = time.perf_counter()
        values = [float(method(kernel)) for kernel in kernels]
        seconds = (time.perf_counter() - began) / len(kernels)
        above = 100 * (np.array(values) / np.array(truths) - 1)
        result[name] = {
            "percent_above_the_norm": dict(
                zip(("least", "median", "largest"), np.quantile(above, [0, 0.5, 1]), strict=True)
            ),
            "below_the_norm": int((above < 0).sum()),
            "seconds": seconds,
        }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
