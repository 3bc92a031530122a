"""Evaluations of g that Anderson mixing saves against Picard iteration, by Picard's rate.

    python -m benchmarks.solvers --out FOLDER [--run RUN]

Blocks whose branches are the more isometric the higher the rate (ELU between a convolution and
its adjoint, of either sign, at coefficients up to 0.99); two blocks trained on scikit-learn's
digits, whose pixels need stretching; and, with ``--run``, the blocks of a trained flow at its own
test images. Both solvers go to the same residual. Writes ``solvers.json``
and ``solvers.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from tf_iresnet.fixed_point import Anderson, Picard, Solver
from tf_iresnet.fixed_point.solver import rms
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import RussianRoulette

RTOL = {"float32": 1e-5, "float64": 1e-12}
MEMORIES = (2, 5, 10)


def isometric_block(coeff: float, sign: float, dtype: str, seed: int) -> InvertibleResidual:
    """A block of the form x + sign A^T elu(A x + 1) with |A|^2 about coeff^2."""
    rng = np.random.default_rng(seed)
    block = InvertibleResidual(
        hidden=16,
        kernel_sizes=(3, 3),
        coeff=coeff,
        activation="elu",
        input_activation=False,
        dtype=dtype,
    )
    block.build((None, 8, 8, 4))
    first, last = (part for part in block.branch.parts if hasattr(part, "kernel"))
    kernel = rng.standard_normal(first.kernel.shape)
    first.kernel.assign(9 * kernel)
    last.kernel.assign(9 * sign * kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    first.bias.assign(np.ones(16))
    block.converge_spectral_state()
    return block


def constructed(dtype: str) -> Iterator[tuple[str, InvertibleResidual, tf.Tensor]]:
    """Yields names, blocks and images under them."""
    for coeff in (0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99):
        for sign in (1.0, -1.0):
            block = isometric_block(coeff, sign, dtype, seed=0)
            x = np.random.default_rng(1).standard_normal((16, 8, 8, 4))
            yield f"{coeff:g} {sign:+g}", block, block.forward(tf.constant(x, dtype))


def trained(folder: str, dtype: str) -> Iterator[tuple[str, InvertibleResidual, tf.Tensor]]:
    """Yields a run's blocks and what they make of the first test images."""
    from benchmarks.trained import trained_blocks

    for index, (block, y) in enumerate(trained_blocks(folder, 16)):
        yield f"trained {index}", *_cast(block, y, dtype)


def exported(dtype: str) -> Iterator[tuple[str, InvertibleResidual, tf.Tensor]]:
    """Yields the blocks of the exported flow and what they make of images."""
    from benchmarks.estimators import images
    from benchmarks.exported import exported_flow
    from benchmarks.trained import blocks_and_outputs

    model = exported_flow()
    x, _ = images(model, 4)
    for index, (block, y) in enumerate(blocks_and_outputs(model, x)):
        yield f"exported {index}", *_cast(block, y, dtype)


def digits(dtype: str, steps: int = 600) -> Iterator[tuple[str, InvertibleResidual, tf.Tensor]]:
    """Yields two blocks trained to be the density of scikit-learn's digits, and images under them.

    The pixels are not normalised first, so that both blocks stretch as far as 0.99 allows.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    pixels = load_digits().data / 17

    def data(count: int) -> tf.Tensor:
        chosen = pixels[rng.integers(0, len(pixels), count)]
        return tf.constant(chosen + rng.random(chosen.shape) / 17 - 0.5, tf.float32)

    arguments = {"hidden": 128, "kernel_sizes": (1, 1), "coeff": 0.99, "input_activation": False}
    estimator = RussianRoulette(exact_terms=4)
    flow = InvertibleSequential(
        [InvertibleResidual(log_det=estimator, **arguments) for _ in range(2)]
    )
    flow.build((None, 64))
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=10.0)
    optimizer.build(flow.trainable_variables)

    @tf.function
    def step(x: tf.Tensor, seed: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            z, log_det = flow.forward_and_log_det(x, seed, training=True)
            loss = tf.reduce_mean(tf.reduce_sum(tf.square(z), 1) / 2 - log_det)
        gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
        optimizer.apply(gradients, flow.trainable_variables)

    for index in range(steps):
        step(data(128), tf.constant([0, index, 0]))
    x = data(16)
    for index, block in enumerate(flow.layers):
        x = block.forward(x)
        yield f"digits {index}", *_cast(block, x, dtype)


def _cast(
    block: InvertibleResidual, y: tf.Tensor, dtype: str
) -> tuple[InvertibleResidual, tf.Tensor]:
    """Returns a copy of the block and y in a dtype."""
    copy = InvertibleResidual.from_config({**block.get_config(), "dtype": dtype})
    copy.build(y.shape)
    for variable, value in zip(copy.variables, block.variables, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    return copy, tf.cast(y, dtype)


def measure(
    name: str,
    block: InvertibleResidual,
    y: tf.Tensor,
    dtype: str,
    memories: Sequence[int] = MEMORIES,
) -> dict[str, Any]:
    """Solve by both; the rate is Picard's mean fall of the residual per evaluation."""
    function, parameters = block._function(dtype)

    def g(x: tf.Tensor) -> tf.Tensor:
        return function(parameters, x)

    def run(solver: Solver) -> Any:
        solve = tf.function(lambda y: solver.solve(g, y), autograph=False)
        result = solve(y)
        assert result.converged.numpy().all(), (name, solver)
        return result

    tolerance = {"atol": 0.0, "rtol": RTOL[dtype], "max_steps": 5000}
    picard = run(Picard(**tolerance))
    steps = float(picard.steps.numpy().mean())
    first = rms(function(parameters, y)).numpy()  # the residual at the start, x = y
    fall = (picard.residual.numpy() / first) ** (1 / np.maximum(picard.steps.numpy() - 1, 1))
    anderson = {m: run(Anderson(**tolerance, memory=m)).steps.numpy() for m in memories}
    worst = {m: int((s - picard.steps.numpy()).max()) for m, s in anderson.items()}
    return {
        "block": name,
        "dtype": dtype,
        "rate": float(fall.mean()),
        "picard": steps,
        "anderson": {str(m): float(s.mean()) for m, s in anderson.items()},
        "gain": {str(m): steps / float(s.mean()) for m, s in anderson.items()},
        "most_above_picard": max(worst.values()),
    }


def least_gain(rate: float = 0.85, memory: int = 5) -> dict[str, Any]:
    """Return the least gain of the blocks above a rate, in float64, and the gains by group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for group, blocks in (("constructed", constructed), ("digits", digits), ("flow", exported)):
        rows = [measure(*block, "float64", [memory]) for block in blocks("float64")]
        groups[group] = [
            {"block": row["block"], "rate": row["rate"], "gain": row["gain"][str(memory)]}
            for row in rows
        ]
    return {**summary(groups, rate), "memory": memory}


def summary(groups: dict[str, list[dict[str, Any]]], rate: float) -> dict[str, Any]:
    """Return the least gain of all blocks above a rate, and each group's range and blocks."""
    fast = [row["gain"] for rows in groups.values() for row in rows if row["rate"] >= rate]
    ranges = {
        group: {
            "rates": [min(row["rate"] for row in rows), max(row["rate"] for row in rows)],
            "gains": [min(row["gain"] for row in rows), max(row["gain"] for row in rows)],
        }
        for group, rows in groups.items()
    }
    return {"least": min(fast), "rate": rate, "groups": ranges, "blocks": groups}


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the gain against the rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, dtype in zip(axes, RTOL, strict=True):
        for memory, colour in zip(MEMORIES, ("C0", "C1", "C2"), strict=True):
            for kind, marker in (("trained", "o"), ("", "x")):
                points = [
                    (row["rate"], row["gain"][str(memory)])
                    for row in rows
                    if row["dtype"] == dtype
                    and row["block"].startswith(("trained", "digits")) == bool(kind)
                ]
                if points:
                    label = f"memory {memory}" + (", trained" if kind else "")
                    axis.plot(*zip(*points, strict=True), marker, color=colour, label=label)
        axis.axhline(1.0, color="grey", linewidth=0.5)
        axis.axhline(3.0, color="grey", linewidth=0.5, linestyle=":")
        axis.axvline(0.85, color="grey", linewidth=0.5, linestyle=":")
        axis.set(xlabel="Picard's rate", title=f"{dtype}, residual {RTOL[dtype]:g} RMS(y)")
        axis.set_yscale("log")
    axes[0].set_ylabel("evaluations, Picard / Anderson")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument(
        "--ratio", action="store_true", help="print the least gain at high rates and stop"
    )
    parser.add_argument("--run", help="folder of a trained flow")
    options = parser.parse_args(arguments)
    if options.ratio:
        print(json.dumps(least_gain()))
        return 0
    if options.out is None:
        parser.error("--out or --ratio is needed")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for dtype in RTOL:
        blocks = [*constructed(dtype), *digits(dtype)]
        if options.run:
            blocks += trained(options.run, dtype)
        for name, block, y in blocks:
            rows.append(measure(name, block, y, dtype))
            row = rows[-1]
            gains = " ".join(f"{m}: {gain:.2f}" for m, gain in row["gain"].items())
            print(
                f"{dtype} {name:12} rate {row['rate']:.2f} Picard {row['picard']:6.1f} {gains}",
                file=sys.stderr,
                flush=True,
            )
    rows.sort(key=lambda row: row["rate"])
    command = f"python -m benchmarks.solvers --out {options.out.name}"
    report = {
        "command": command + (f" --run {Path(options.run).name}" if options.run else ""),
        "seed": 0,
        "cpu_seconds": round(time.process_time(), 1),
        "blocks": rows,
    }
    (options.out / "solvers.json").write_text(json.dumps(report, indent=1) + "\n")
    picture(rows, options.out / "solvers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
