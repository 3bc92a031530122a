"""A worker that runs this library for the benchmarks, driven by JSON lines.

It answers the commands of the peer's worker (see `peer_normflows`), with the same fields::

    python -m benchmarks.ours

What differs: ``setup`` takes neither ``mode`` nor ``terms``, leaves the blocks new without
``weights`` and TensorFlow's threads alone if ``threads`` is null, knows ``recompute``, and takes
the memory's base before a step is traced. ``inverse`` takes ``atol`` alone, the RMS of the residual
at which the solver stops. ``log_det`` takes no ``terms``. Two commands are added:

``{"cmd": "roofline", "n": [1, 2, ...]}``
    Times the convolutions of a step with these draws and nothing else: "seconds" is a floor.
``{"cmd": "part", "name": "power iteration"}``
    Times one part of a step alone: "power iteration" or "optimizer".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.measure import Stopwatch, memory_bytes, reset_peak, serve
from benchmarks.roofline import bare_step
from tf_iresnet import randomness
from tf_iresnet.fixed_point import Anderson, FixedPointResult
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import RussianRoulette

EXACT_TERMS = 2
EVALUATION_EXACT_TERMS = 20  # as normflows'
KERNEL_SIZES = (3, 1, 3)


class FixedRoulette(RussianRoulette):
    """The roulette with N read from a variable, so that one trace serves every draw."""

    def __init__(self, draws: tf.Variable, block: int, exact_terms: int) -> None:
        super().__init__(exact_terms=exact_terms, distribution="geometric", probability=0.5)
        self.draws, self.block = draws, block

    def draw(self, seed):
        return self.draws[self.block]


def negative_log_likelihood(z: tf.Tensor, log_det: tf.Tensor) -> tf.Tensor:
    """Return the loss: the mean of -ln p under a standard normal prior, in nats."""
    size = z.shape[1:].num_elements()
    square = tf.reduce_sum(tf.square(z), axis=list(range(1, z.shape.rank)))
    return tf.reduce_mean(0.5 * square - log_det) + 0.5 * size * math.log(2 * math.pi)


class Worker:
    """The model, its optimizer and one method for each command."""

    def setup(
        self,
        weights: str | None = None,
        threads: int | None = 2,
        blocks: int = 8,
        batch: int = 64,
        shape: Sequence[int] = (16, 16, 12),
        hidden: int = 128,
        power_iterations: int = 1,
        normalization: str = "power_iteration",
        coeff: float = 0.9,
        seed: int = 0,
        learning_rate: float = 1e-3,
        converge: int = 100,
        recompute: bool = False,
    ) -> dict[str, Any]:
        """Build the blocks, converge their power iterations and make the optimizer."""
        if threads is not None:  # must come before anything is computed
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        self.batch, self.shape, self.hidden = batch, tuple(shape), hidden
        self.draws = tf.Variable(tf.ones([blocks], tf.int32), trainable=False)
        self.blocks = [
            InvertibleResidual(
                hidden=hidden,
                kernel_sizes=KERNEL_SIZES,
                coeff=coeff,
                activation="lipswish",
                input_activation=True,
                power_iterations=max(1, power_iterations),
                normalization=normalization,
                log_det=FixedRoulette(self.draws, block, EXACT_TERMS),
                recompute=recompute,
            )
            for block in range(blocks)
        ]
        self.flow = InvertibleSequential(self.blocks)
        self.flow.build((None, *shape))
        if weights is not None:
            with np.load(weights, allow_pickle=False) as arrays:
                self.fill(arrays)
        self.rng = np.random.default_rng([seed, 1])
        self.seed, self.steps = seed, 0
        tf.function(self.flow.update_spectral_state)(converge)
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.optimizer.build(self.flow.trainable_variables)
        self.train = tf.function(self.train_step)
        self.encode = tf.function(self.flow.forward)
        reset_peak()
        return {
            "tensorflow": version("tensorflow"),
            "keras": version("keras"),
            "tf_iresnet": version("tf_iresnet"),
            "threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "parameters": sum(math.prod(v.shape) for v in self.flow.trainable_variables),
            "normalization": self.blocks[0].branch.normalization,
            "base_bytes": memory_bytes("VmRSS"),
        }

    def fill(self, weights: Any) -> None:
        """Set the weights of all branches."""
        for i, block in enumerate(self.blocks):
            activations, layers = block.branch.parts[::2], block.branch.parts[1::2]
            for j, (activation, layer) in enumerate(zip(activations, layers, strict=True)):
                layer.kernel.assign(weights[f"block{i}_kernel{j}"])
                layer.bias.assign(weights[f"block{i}_bias{j}"])
                activation.beta.assign(weights[f"block{i}_beta{j}"])

    def data(self, batch: int) -> tf.Tensor:
        """Return the peer's next batch of standard normal images."""
        height, width, channels = self.shape
        x = self.rng.standard_normal((batch, channels, height, width), dtype=np.float32)
        return tf.constant(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))

    def set_draws(self, n: Sequence[int]) -> None:
        """Fix the roulette's draws of all blocks."""
        if len(n) != len(self.blocks) or min(n) < 1:
            raise ValueError(f"n must be {len(self.blocks)} integers >= 1, got {list(n)}")
        self.draws.assign(n)

    def next_seed(self) -> tf.Tensor:
        """Return the seed of this call's probes."""
        self.steps += 1
        return tf.constant([self.seed, self.steps, 0], tf.int32)

    def loss_and_gradients(self, x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, list]:
        """Return the loss and its gradients by the trainable variables."""
        variables = self.flow.trainable_variables
        with tf.GradientTape() as tape:
            z, log_det = self.flow.forward_and_log_det(x, seed, training=True)
            loss = negative_log_likelihood(z, log_det)
        return loss, tape.gradient(loss, [v.value for v in variables])

    def train_step(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Norms, forward, loss, gradients, Adam: one graph."""
        loss, gradients = self.loss_and_gradients(x, seed)
        self.optimizer.apply(gradients, self.flow.trainable_variables)
        return loss

    def step(self, n: Sequence[int]) -> dict[str, Any]:
        """Run one training step on a new batch."""
        x, seed = self.data(self.batch), self.next_seed()
        self.set_draws(n)
        with Stopwatch() as watch:
            loss = float(self.train(x, seed))
        return watch.report(loss=loss)

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """Parts of a step, each a graph."""
        gradients = [tf.zeros(v.shape) for v in self.flow.trainable_variables]
        return {
            "power iteration": tf.function(lambda: self.flow.update_spectral_state(1)),
            "optimizer": tf.function(
                lambda: self.optimizer.apply(gradients, self.flow.trainable_variables)
            ),
        }

    def part(self, name: str) -> dict[str, Any]:
        """Run a part of a step alone."""
        with Stopwatch() as watch:
            self.parts[name]()
        return watch.report()

    @functools.cache  # noqa: B019  (the worker lives as long as its process)
    def inverse_function(self, atol: float) -> Any:
        """Return the inverse at this tolerance, a graph."""
        for block in self.blocks:
            block.solver = Anderson(atol=atol, rtol=0.0)
        # Without the bound of its error: what others compute.
        function = tf.function(lambda y: FixedPointResult(*self.flow._inverse(y)[:4]))
        return function.get_concrete_function(tf.TensorSpec((None, *self.shape)))

    def inverse(self, batch: int | None = None, atol: float = 1e-5) -> dict[str, Any]:
        """Invert all blocks on outputs of the forward map."""
        x = self.data(batch or self.batch)
        y = self.encode(x)
        function = self.inverse_function(atol)
        with Stopwatch() as watch:
            result = function(y)
            inverse = result.x.numpy()
        error = inverse - x.numpy()
        return watch.report(
            max_error=float(np.abs(error).max()),
            rms_error=float(np.sqrt(np.square(error).mean())),
            evaluations=int(result.steps.numpy().max()),
            converged=bool(result.converged.numpy().all()),
        )

    @functools.cached_property
    def evaluate(self) -> Any:
        """The evaluation log-determinant, a graph."""
        estimators = [
            FixedRoulette(self.draws, block, EVALUATION_EXACT_TERMS)
            for block in range(len(self.blocks))
        ]

        def evaluate(x, seed):
            total = 0.0
            for block, estimator in zip(self.blocks, estimators, strict=True):
                own = randomness.fold_in(seed, estimator.block)
                x, value = block.forward_and_log_det(x, own, estimator)
                total += value
            return total

        return tf.function(evaluate)

    def log_det(self, n: Sequence[int], batch: int | None = None) -> dict[str, Any]:
        """Estimate the log-determinant with as many terms as normflows in evaluation."""
        x, seed = self.data(batch or self.batch), self.next_seed()
        self.set_draws(n)
        with Stopwatch() as watch:
            value = self.evaluate(x, seed).numpy()
        return watch.report(mean=float(value.mean()), std=float(value.std(ddof=1)))

    @functools.cached_property
    def bare(self) -> Any:
        """The convolutions of a step, a graph."""
        layers = [[part for part in b.branch.parts if hasattr(part, "kernel")] for b in self.blocks]

        def run(x):
            total = 0.0
            for block, convolutions in enumerate(layers):
                maps = [layer.linear_map for layer in convolutions]
                kernels = [tf.stop_gradient(layer.normalized_kernel()) for layer in convolutions]
                total += bare_step(maps, kernels, x, EXACT_TERMS + self.draws[block])
            return total

        return tf.function(run)

    def roofline(self, n: Sequence[int]) -> dict[str, Any]:
        """Run the convolutions of a step alone."""
        x = self.data(self.batch)
        self.set_draws(n)
        with Stopwatch() as watch:
            float(self.bare(x))
        return watch.report()


def main() -> None:
    """Answer commands until told to quit."""
    worker = Worker()
    names = ("setup", "step", "inverse", "log_det", "roofline", "part")
    serve({name: getattr(worker, name) for name in names})


if __name__ == "__main__":
    main()
