"""Bounds and estimates of convolutions' norms against dense singular values: one line of JSON.

    python -m benchmarks.certificates [--kernels 40]

Random 3x3 kernels, half of them non-negative, on 8x8. What research code takes for the norm are
some power iterations from a random start, an estimate from below: five of ours, and normflows' own
where it is installed, five and as many as its default tolerance takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from tf_iresnet.norms import conv_norm_bound, power_iteration
from tf_iresnet.norms.dense import dense_matrix

SIZES = (8, 8)


def peer_methods() -> dict[str, Callable[[np.ndarray], float]]:
    """Return normflows' estimates of a kernel's norm, none where it is not installed."""
    if not (find_spec("torch") and find_spec("normflows")):
        return {}
    import torch
    from normflows.nets.lipschitz import InducedNormConv2d

    def estimate(kernel: np.ndarray, **stop: Any) -> float:
        taps, _, channels, filters = kernel.shape
        layer = InducedNormConv2d(channels, filters, taps, 1, taps // 2, bias=False, **stop)
        with torch.no_grad():
            weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            layer.weight.copy_(torch.from_numpy(weight))
            layer(torch.zeros(1, channels, *SIZES))  # the first call runs the iterations
        return float(layer.scale)

    torch.manual_seed(0)
    return {
        "normflows, five iterations": lambda kernel: estimate(kernel, n_iterations=5),
        "normflows, to its tolerance": lambda kernel: estimate(kernel, atol=1e-3, rtol=1e-3),
    }


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
        **peer_methods(),
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
