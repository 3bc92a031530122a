"""What the norm constraint costs a block, by its shape: writes norms.json beside this file.

    python -m benchmarks.norms [--repeats 7] [--blocks 4]

A step is what training a flow does with a block on a batch of 64: forward, log-determinant of two
exact terms and one more, its gradient, and a move of all kernels. Inference is the forward pass.
Each is compared with the same block without constraint, in processor time, the two in turns in one
process on one thread: the median of the differences is taken. "norms" is what it takes to find the
norms of kernels that have moved, by itself, as a share of the step without constraint: the part of
a step that a constraint adds, but for products with a number, and far less noisy than the
difference of two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential, upkeep
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.log_det import PowerSeries
from training.runs.machine import processor

# Input of the block, and its hidden channels.
SHAPES = {
    "digits, 4 x 4": ((4, 4, 4), 48),
    "MNIST, 14 x 14": ((14, 14, 4), 64),
    "MNIST, 7 x 7": ((7, 7, 16), 192),
    "CIFAR-10, 16 x 16": ((16, 16, 12), 64),
    "CIFAR-10, 8 x 8": ((8, 8, 48), 96),
    "Residual Flows, 16 x 16": ((16, 16, 12), 512),
    "Residual Flows, 8 x 8": ((8, 8, 48), 512),
    "Residual Flows, 4 x 4": ((4, 4, 192), 512),
}
BATCH = 64
KINDS: dict[str, dict[str, Any]] = {
    "none": {"coeff": None},
    "bound": {"coeff": 0.98, "normalization": "bound"},
    "power_iteration": {"coeff": 0.98, "normalization": "power_iteration"},
}


class Stack:
    """Some equal blocks, and graphs of a step and of inference."""

    def __init__(self, shape: Sequence[int], hidden: int, blocks: int, **options: Any) -> None:
        """Build the blocks, as their arguments say."""
        began = time.process_time()
        self.flow = InvertibleSequential(
            [
                InvertibleResidual(hidden=hidden, log_det=PowerSeries(terms=3), **options)
                for _ in range(blocks)
            ]
        )
        self.flow.build((None, *shape))
        self.x = tf.random.stateless_normal((BATCH, *shape), (0, 0))
        self.step, self.infer = tf.function(self._step), tf.function(self.flow.forward)
        self.refresh = tf.function(self._refresh)
        self.step(tf.constant(0))
        self.infer(self.x)
        self.start_up = time.process_time() - began

    def _step(self, index: tf.Tensor) -> tf.Tensor:
        weights = [variable.value for variable in self.flow.trainable_variables]
        with tf.GradientTape() as tape:
            y, log_det = self.flow.forward_and_log_det(self.x, index, training=True)
            loss = tf.reduce_mean(tf.reduce_sum(tf.square(y), [1, 2, 3]) / 2 - log_det)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(1e-5 * gradient)
        return loss

    def _refresh(self) -> tf.Tensor:
        inside = layers_inside(self.flow)
        layers = [layer for layer in inside if isinstance(layer, SpectralLayer)]
        for layer in layers:
            layer.kernel.assign(layer.kernel * 1.001)
        with upkeep.up_to_date(layers):
            return tf.constant(0)


def times(functions: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """The processor times of each function, called in turns.

    The first round is not counted: in it a step finds kernels that inference left normalised, and
    inference kernels that a step has moved.
    """
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(1 + repeats):
        for own, function in zip(taken, functions, strict=True):
            began = time.process_time()
            function()
            own.append(time.process_time() - began)
    return [own[1:] for own in taken]


def above(own: Sequence[float], others: Sequence[float]) -> float:
    """By how much the one takes longer, as a share of the others' median."""
    differences = [a - b for a, b in zip(own, others, strict=True)]
    return statistics.median(differences) / statistics.median(others)


def measured(shape: Sequence[int], hidden: int, blocks: int, repeats: int) -> dict[str, Any]:
    """The cost of each kind of constraint for blocks of one shape."""
    stacks = {kind: Stack(shape, hidden, blocks, **options) for kind, options in KINDS.items()}
    steps = times([lambda s=s: s.step(tf.constant(1)) for s in stacks.values()], repeats)
    passes = times([lambda s=s: s.infer(s.x) for s in stacks.values()], repeats)
    norms = times([s.refresh for s in stacks.values()], repeats)
    default = InvertibleResidual(hidden=hidden)
    default.build((None, *shape))
    step_seconds = statistics.median(steps[0])
    result: dict[str, Any] = {"default": default.branch.normalization, "step_seconds": step_seconds}
    for index, kind in enumerate(stacks):
        if kind != "none":
            result[kind] = {
                "norms": statistics.median(norms[index]) / step_seconds,
                "step": above(steps[index], steps[0]),
                "inference": above(passes[index], passes[0]),
                "start_up": stacks[kind].start_up / stacks["none"].start_up - 1,
            }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.norms", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--only", choices=SHAPES, action="append", default=[])
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    results: dict[str, Any] = {
        "processor": processor(),
        "batch": BATCH,
        "blocks": options.blocks,
        "shapes": {},
    }
    for name, (shape, hidden) in SHAPES.items():
        if options.only and name not in options.only:
            continue
        found = measured(shape, hidden, options.blocks, options.repeats)
        results["shapes"][name] = found
        print(f"{name}: default {found['default']}", file=sys.stderr)
        for kind in KINDS:
            shares = (f"{part} {share:+.1%}" for part, share in found.get(kind, {}).items())
            print(f"  {kind}: {', '.join(shares)}", file=sys.stderr)
    print(json.dumps(results))
    if not options.only:
        path = Path(__file__).with_suffix(".json")
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
