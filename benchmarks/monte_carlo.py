"""Effective draws per gradient of HMC, plain and preconditioned by a flow fitted by reverse KL.

    python -m benchmarks.monte_carlo --out FOLDER [--seeds 5]

The flow is fitted to the unnormalised density by its own draws, whose direction iterates; then
HMC runs in its latent space through `tfp.mcmc.TransformedTransitionKernel`, with exact
log-determinants. Both samplers tune their step sizes to the same acceptance and have the number of
leapfrog steps that suited them best in pilot chains; gradients of the target are what is counted,
those of the fit beside. No gain is given where a sampler misses the true moments by four standard
errors, has fewer than 400 effective draws, or chains that disagree. Writes ``monte_carlo.json`` and
``monte_carlo.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.fixed_point import Anderson
from tf_iresnet.layers import ActNorm, InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import Exact

CHAINS = 256


class Effort(NamedTuple):
    """How long a sampler's chains are, and which numbers of leapfrog steps it may have."""

    adaptation: int
    draws: int
    leapfrogs: tuple[int, ...]


# What mixes slowly needs more of all.
EFFORT = {"plain": Effort(250, 1000, (6, 8, 12, 16)), "through": Effort(120, 250, (1, 2, 3))}
PILOT = Effort(80, 60, ())
LEVEL = 4.0  # standard errors by which a moment may miss the truth
LEAST = 400  # effective draws below which moments are not judged
SPREAD, BEND, WIDTH = 2.0, 0.1, 0.3


def banana(x: tf.Tensor) -> tf.Tensor:
    """An unnormalised log-density: x_0 of deviation 2, x_1 about a parabola of it, of 0.3."""
    bend = x[..., 1] - BEND * (tf.square(x[..., 0]) - SPREAD**2)
    return -0.5 * (tf.square(x[..., 0] / SPREAD) + tf.square(bend / WIDTH))


# Means of x_0, x_1 and of their squares.
TRUTH = np.array([0.0, 0.0, SPREAD**2, WIDTH**2 + 2 * BEND**2 * SPREAD**4])


def overdispersed(count: int, seed: int) -> np.ndarray:
    """Starts along the parabola, with a quarter more spread and twice the width."""
    normal = np.random.default_rng([seed, 7]).standard_normal((count, 2))
    first = 1.25 * SPREAD * normal[:, 0]
    second = BEND * (first**2 - SPREAD**2) + 2 * WIDTH * normal[:, 1]
    return np.stack([first, second], 1).astype(np.float32)


def flow(seed: int, blocks: int = 4) -> KerasBijector:
    """Blocks and scales between them, data to latent."""
    keras.utils.set_random_seed(seed)
    layers: list[Any] = []
    for _ in range(blocks):
        solver = Anderson(atol=1e-5, rtol=1e-5)
        layers += [
            ActNorm(),
            InvertibleResidual(
                hidden=32,
                kernel_sizes=(1, 1, 1),
                coeff=0.97,
                input_activation=False,
                log_det=Exact(),
                solver=solver,
            ),
        ]
    return KerasBijector(InvertibleSequential([*layers, ActNorm()]), event_shape=[2])


def fit(
    bijector: KerasBijector, target: Any, steps: int, batch: int, seed: int, tempered: bool = True
) -> list[float]:
    """Minimise KL(flow || target) up to the target's constant; return its estimates.

    A target that is ``tempered`` in the first half keeps the flow from settling in one arm of it.
    """
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    density = tfd.TransformedDistribution(base, tfb.Invert(bijector))
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=10.0)
    variables = bijector.layer.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            x = density.sample(batch, seed=tf.stack([seed, index]))
            share = tf.cast(index, tf.float32) / steps
            warmth = tf.minimum(1.0, 0.05 + 2.0 * share) if tempered else 1.0
            loss = tf.reduce_mean(density.log_prob(x) - warmth * target(x))
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return loss

    losses = [float(step(tf.constant(index))) for index in range(steps)]
    return losses


def divergence(bijector: KerasBijector, target: Any, constant: float, seed: int) -> float:
    """Estimate KL(flow || target) from draws of the flow; ``constant`` is ln of the target's."""
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    density = tfd.TransformedDistribution(base, tfb.Invert(bijector))
    x = density.sample(4000, seed=[seed, 10])
    return float(tf.reduce_mean(density.log_prob(x) - target(x))) + constant


def chains(
    target: Any,
    bijector: tfb.Bijector | None,
    seed: int,
    leapfrogs: int,
    draws: int,
    adaptation: int,
) -> tf.Tensor:
    """Run HMC from starts spread wider than the target; return [draws, CHAINS, 2]."""
    inner = tfp.mcmc.HamiltonianMonteCarlo(target, step_size=0.3, num_leapfrog_steps=leapfrogs)
    kernel: Any = inner
    if bijector is not None:
        kernel = tfp.mcmc.TransformedTransitionKernel(inner, bijector)
    kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel, num_adaptation_steps=int(0.8 * adaptation), target_accept_prob=0.95
    )
    start = tf.constant(overdispersed(CHAINS, seed))

    @tf.function
    def run() -> Any:
        return tfp.mcmc.sample_chain(
            draws,
            start,
            kernel=kernel,
            num_burnin_steps=adaptation,
            trace_fn=None,
            seed=[seed, 8],
        )

    return run()


def effective_draws(draws: tf.Tensor, leapfrogs: int) -> dict[str, Any]:
    """Return the least effective sample size per gradient of the target, and what it rests on."""
    # The parabola's tails mix slowest: squares count, too.
    functions = tf.concat([draws, tf.square(draws)], -1)
    sizes = tfp.mcmc.effective_sample_size(
        functions, filter_beyond_positive_pairs=True, cross_chain_dims=1
    ).numpy()
    reduction = tfp.mcmc.potential_scale_reduction(functions, split_chains=True).numpy()
    values = functions.numpy().reshape(-1, 4)
    errors = values.std(0) / np.sqrt(sizes)
    missed = np.abs(values.mean(0) - TRUTH) / errors
    return {
        "per_gradient": float(sizes.min() / (draws.shape[0] * CHAINS * leapfrogs)),
        "leapfrogs": leapfrogs,
        "effective_draws": float(sizes.min()),
        "scale_reduction": float(reduction.max()),
        "moments": values.mean(0).tolist(),
        "standard_errors": errors.tolist(),
        "valid": bool((missed < LEVEL).all() and sizes.min() >= LEAST and reduction.max() < 1.01),
    }


def measured(target: Any, bijector: tfb.Bijector | None, seed: int) -> tuple[dict, np.ndarray]:
    """Choose the number of leapfrog steps on pilot chains, and measure it on others."""
    effort = EFFORT["plain" if bijector is None else "through"]

    def pilot(leapfrogs: int) -> float:
        draws = chains(target, bijector, 1000 + seed, leapfrogs, PILOT.draws, PILOT.adaptation)
        return effective_draws(draws, leapfrogs)["per_gradient"]

    leapfrogs = max(effort.leapfrogs, key=pilot)
    draws = chains(target, bijector, seed, leapfrogs, effort.draws, effort.adaptation)
    return effective_draws(draws, leapfrogs), draws.numpy()[::50].reshape(-1, 2)


def picture(plain: np.ndarray, through: np.ndarray, own: np.ndarray, path: Path) -> None:
    """Draw the target's contours under draws of the samplers and of the flow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    grid = np.stack(np.meshgrid(np.linspace(-7, 7, 200), np.linspace(-2, 5, 200)), -1)
    height = banana(tf.constant(grid, tf.float32)).numpy()
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharey=True)
    titles = ("HMC", "HMC through the flow", "the flow's own draws")
    for axis, title, draws in zip(axes, titles, (plain, through, own), strict=True):
        axis.contour(grid[..., 0], grid[..., 1], height, levels=[-8, -4, -2, -0.5], colors="grey")
        axis.plot(draws[:, 0], draws[:, 1], ".", markersize=2)
        axis.set(title=title, xlim=(-7, 7), ylim=(-2, 5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monte_carlo", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="of the fit")
    parser.add_argument("--batch", type=int, default=128, help="draws of each step of the fit")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    constant = float(np.log(2 * np.pi * SPREAD * WIDTH))
    for seed in range(options.seeds):
        bijector = flow(seed)
        fit(bijector, banana, options.steps, options.batch, seed)
        plain, plain_draws = measured(banana, None, seed)
        through, through_draws = measured(banana, tfb.Invert(bijector), seed)
        if not rows:
            own = bijector.inverse(tf.random.stateless_normal([640, 2], [seed, 9])).numpy()
            path = options.out / "monte_carlo.png"
            picture(plain_draws, through_draws, own, path)
        kl = divergence(bijector, banana, constant, seed)
        valid = plain["valid"] and through["valid"]
        gain = through["per_gradient"] / plain["per_gradient"] if valid else None
        row: dict[str, Any] = {"seed": seed, "kl": kl, "gain": gain}
        for name, result in (("plain", plain), ("through", through)):
            row[name] = result
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    gains = [row["gain"] for row in rows if row["gain"] is not None]
    report = {
        "command": f"python -m benchmarks.monte_carlo --out {options.out.name} --seeds "
        f"{options.seeds} --steps {options.steps} --batch {options.batch}",
        "cpu_seconds": round(time.process_time(), 1),
        "target": "banana",
        "true_moments": TRUTH.tolist(),
        "level": LEVEL,
        "gradients_of_each_fit": options.steps * options.batch,
        "valid_runs": len(gains),
        "gain_mean": float(np.mean(gains)) if gains else None,
        "gain_deviation": float(np.std(gains, ddof=1)) if len(gains) > 1 else None,
        "runs": rows,
    }
    (options.out / "monte_carlo.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
