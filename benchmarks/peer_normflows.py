"""A worker that runs normflows (PyTorch) for the benchmarks, driven by JSON lines.

It runs in its own interpreter, one with ``torch``, ``normflows`` and ``numpy``, and imports nothing
of this library, so that ours and theirs can alternate in one process tree::

    python benchmarks/peer_normflows.py

Each line on standard input is one command, and each gets exactly one JSON object as a line on
standard output: ``{"error": ...}`` if the command failed (the worker goes on), else what is said
below. Anything libraries print goes to standard error. Times are of the work alone: "seconds" is
wall time, "cpu_seconds" the process' user and system time over all threads. "peak_bytes" is the
high-water mark of resident memory since ``setup`` ended and "base_bytes" the memory at that moment.

``{"cmd": "setup", "threads": 2, "blocks": 8, "batch": 64, "shape": [16, 16, 12], "hidden": 128,
"power_iterations": 1, "mode": "neumann"}``
    Builds ``blocks`` iResBlocks, each a LipschitzCNN 3x3 / 1x1 / 3x3 with a Swish before every
    convolution, float32, and Adam. ``mode`` "neumann" is normflows' memory-saving training,
    "backprop" differentiates the power series itself. Optional: ``coeff`` (0.9), ``terms`` (null:
    roulette with two exact terms and geometric(0.5); a number: truncated series), ``seed`` (0),
    ``learning_rate`` (1e-3), ``weights`` (an .npz file), ``converge`` (100, power iterations before
    the first step). A file of weights holds ``block{i}_kernel{j}`` [kh, kw, in, out],
    ``block{i}_bias{j}`` and ``block{i}_beta{j}``; without one they are those of
    ``example_weights(blocks, channels, hidden, seed)``, plain numpy to be repeated elsewhere.
``{"cmd": "step", "n": [1, 2, ...]}``
    One training step: ``power_iterations`` power iterations in every layer, forward, loss,
    gradients, Adam. ``n`` is the roulette's draw for each block, in order. The loss is the mean
    negative log-likelihood under a standard normal; in "neumann" mode normflows puts the surrogate
    in place of the log-determinant, so its value, unlike its gradient, is not an estimate.
``{"cmd": "inverse", "batch": 64}``
    Maps a batch through all blocks, then inverts with normflows' own loop, timed. Optional ``atol``
    and ``rtol`` (1e-5, normflows' own): it stops when every ``(x_i+1 - x_i)^2 < atol + rtol |y|``,
    so ``atol`` is the *square* of a step. Gives "max_error", "rms_error" and "evaluations", the
    calls of branches (summed over blocks).
``{"cmd": "log_det", "n": [1, 2, ...]}``
    Times the evaluation log-determinant (20 exact terms + roulette), with the draws ``n``, or with
    ``"terms": T`` in place of ``n``: N = T - 20 in each block. Gives the "mean" and "std" per
    example over the batch (optional ``batch``).
``{"cmd": "quit"}``
    Ends the worker, as the end of standard input does.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from normflows.flows import residual
from normflows.nets import LipschitzCNN
from normflows.utils import update_lipschitz
from torch import nn

EXACT_TERMS = 2
EVALUATION_EXACT_TERMS = 20  # fixed in normflows' source
KERNEL_SIZES = (3, 1, 3)


def memory_bytes(field: str) -> int:
    """A memory field of this process, VmRSS or VmHWM.

    ``ru_maxrss`` will not do: a child inherits its parent's high-water mark.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def reset_peak() -> None:
    """Let the high-water mark of resident memory start again from here."""
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def fixed_draws(draws: Sequence[int]) -> Iterator[None]:
    """Make normflows' roulette take these draws, one a block, in order; all must be used."""
    remaining = iter(draws)
    original = residual.geometric_sample
    residual.geometric_sample = lambda p, size: np.full(size, next(remaining))
    try:
        yield
    finally:
        residual.geometric_sample = original
    if next(remaining, None) is not None:
        raise ValueError("more draws than blocks used")


def example_weights(blocks: int, channels: int, hidden: int, seed: int) -> dict[str, np.ndarray]:
    """Return weights for branches that contract about as slowly as those of trained flows.

    Independent random kernels contract so fast that solvers have nothing to do and that high
    powers of the Jacobian fall into denormal numbers, which PyTorch computes very slowly. So the
    last kernel is the first one's adjoint, with alternating sign, plus noise.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for i in range(blocks):
        first = rng.standard_normal((3, 3, channels, hidden)) / np.sqrt(9 * channels)
        middle = np.eye(hidden) + 0.2 * rng.standard_normal((hidden, hidden)) / np.sqrt(hidden)
        noise = rng.standard_normal((3, 3, hidden, channels)) / np.sqrt(9 * channels)
        last = (-1) ** i * first[::-1, ::-1].transpose(0, 1, 3, 2) + 0.2 * noise
        for j, kernel in enumerate((first, middle[None, None], last)):
            weights[f"block{i}_kernel{j}"] = kernel
            weights[f"block{i}_bias{j}"] = np.full(kernel.shape[-1], 0.0 if j == 2 else 1.0)
            weights[f"block{i}_beta{j}"] = np.array(0.5)
    return weights


class Stopwatch:
    """Wall and processor time of a ``with`` block."""

    def __enter__(self) -> "Stopwatch":
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu

    def report(self, **values: object) -> dict[str, Any]:
        """Return the answer of a timed command."""
        times = {"seconds": self.wall, "cpu_seconds": self.cpu}
        return {**times, "peak_bytes": memory_bytes("VmHWM"), **values}


class Worker:
    """The model, its optimizer and one method for each command."""

    blocks: nn.ModuleList

    def setup(
        self,
        threads: int = 2,
        blocks: int = 8,
        batch: int = 64,
        shape: Sequence[int] = (16, 16, 12),
        hidden: int = 128,
        power_iterations: int = 1,
        mode: str = "neumann",
        coeff: float = 0.9,
        terms: int | None = None,
        seed: int = 0,
        learning_rate: float = 1e-3,
        weights: str | None = None,
        converge: int = 100,
    ) -> dict[str, Any]:
        """Build the blocks, converge their power iterations and make the optimizer."""
        if mode not in ("neumann", "backprop"):
            raise ValueError(f"mode is 'neumann' or 'backprop', not {mode!r}")
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.batch, self.power_iterations = batch, power_iterations
        height, width, channels = shape
        self.sample = (channels, height, width)
        self.blocks = nn.ModuleList(
            residual.iResBlock(
                LipschitzCNN(
                    [channels, hidden, hidden, channels],
                    KERNEL_SIZES,
                    lipschitz_const=coeff,
                    max_lipschitz_iter=power_iterations,
                    lipschitz_tolerance=None,  # a fixed number of iterations
                    init_zeros=False,
                ),
                geom_p=0.5,
                n_power_series=terms,
                n_exact_terms=EXACT_TERMS,
                neumann_grad=mode == "neumann",
                grad_in_forward=mode == "neumann",
            )
            for _ in range(blocks)
        )
        self.truncated = terms is not None
        if weights is None:
            self.fill(example_weights(blocks, channels, hidden, seed))
        else:
            self.fill(np.load(weights, allow_pickle=False))
        self.rng = np.random.default_rng([seed, 1])
        self.evaluations = 0
        for block in self.blocks:
            block.nnet.register_forward_hook(self.count)
        with torch.no_grad():
            self.encode(self.data(1))  # convolutions learn the image size at the first call
        update_lipschitz(self.blocks, converge)
        self.optimizer = torch.optim.Adam(self.blocks.parameters(), lr=learning_rate)
        reset_peak()
        return {
            "torch": version("torch"),
            "normflows": version("normflows"),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for b in self.blocks for p in b.nnet.parameters()),
            "base_bytes": memory_bytes("VmRSS"),
        }

    @torch.no_grad()
    def fill(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set the weights of all branches."""
        for i, block in enumerate(self.blocks):
            swishes, layers = list(block.nnet.net)[::2], list(block.nnet.net)[1::2]
            for j, (swish, layer) in enumerate(zip(swishes, layers, strict=True)):
                kernel = weights[f"block{i}_kernel{j}"].transpose(3, 2, 0, 1)
                layer.weight.copy_(torch.tensor(np.ascontiguousarray(kernel)))
                layer.bias.copy_(torch.tensor(weights[f"block{i}_bias{j}"]))
                swish.beta.copy_(torch.tensor(weights[f"block{i}_beta{j}"]).reshape(1))

    def count(self, *_: object) -> None:
        """Count one evaluation of a branch (a forward hook)."""
        self.evaluations += 1

    def data(self, batch: int) -> torch.Tensor:
        """Return a batch of standard normal images."""
        return torch.from_numpy(self.rng.standard_normal((batch, *self.sample), dtype=np.float32))

    def draws(self, n: Sequence[int]) -> Sequence[int]:
        """Check the roulette's draws for all blocks."""
        if len(n) != len(self.blocks) or min(n) < 1:
            raise ValueError(f"n must be {len(self.blocks)} integers >= 1, got {list(n)}")
        return n

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map through all blocks without log-determinants."""
        for block in self.blocks:
            x = block(x)
        return x

    def log_prob_step(self, x: torch.Tensor) -> torch.Tensor:
        """Return the loss: mean of the normal's negative log-density minus the log-determinants."""
        minus_log_det = torch.zeros(len(x), 1)
        for block in self.blocks:
            x, minus_log_det = block(x, minus_log_det)
        log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
        return (minus_log_det[:, 0] - log_normal).mean()

    def step(self, n: Sequence[int] = ()) -> dict[str, Any]:
        """Run one training step on a new batch."""
        x = self.data(self.batch)
        self.blocks.train()
        draws = () if self.truncated else self.draws(n)
        with Stopwatch() as watch, fixed_draws(draws):
            update_lipschitz(self.blocks, self.power_iterations)
            self.optimizer.zero_grad()
            loss = self.log_prob_step(x)
            loss.backward()
            self.optimizer.step()
            value = loss.item()
        return watch.report(loss=value)

    @torch.no_grad()
    def inverse(
        self, batch: int | None = None, atol: float = 1e-5, rtol: float = 1e-5
    ) -> dict[str, Any]:
        """Invert all blocks on outputs of the forward map."""
        self.blocks.eval()
        x = self.data(batch or self.batch)
        y = self.encode(x)
        self.evaluations = 0
        with Stopwatch() as watch:
            for block in reversed(self.blocks):
                # iResBlock.inverse calls this very method, without a way to pass tolerances
                y = block._inverse_fixed_point(y, atol=atol, rtol=rtol)
        error = y - x
        return watch.report(
            max_error=error.abs().max().item(),
            rms_error=error.square().mean().sqrt().item(),
            evaluations=self.evaluations,
        )

    @torch.no_grad()
    def log_det(
        self, n: Sequence[int] = (), terms: int | None = None, batch: int | None = None
    ) -> dict[str, Any]:
        """Estimate the log-determinant as normflows does in evaluation."""
        self.blocks.eval()
        if terms is not None:
            n = [terms - EVALUATION_EXACT_TERMS] * len(self.blocks)
        x = self.data(batch or self.batch)
        with Stopwatch() as watch, fixed_draws(self.draws(n)):
            minus_log_det = torch.zeros(len(x), 1)
            for block in self.blocks:
                x, minus_log_det = block(x, minus_log_det)
        return watch.report(mean=-minus_log_det.mean().item(), std=minus_log_det.std().item())


def main() -> None:
    """Answer commands until told to quit."""
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker()
    commands = {name: getattr(worker, name) for name in ("setup", "step", "inverse", "log_det")}
    for line in filter(str.strip, sys.stdin):
        try:
            command = json.loads(line)
            name = command.pop("cmd")
            answer = {} if name == "quit" else commands[name](**command)
        except Exception as error:  # the harness decides; the worker lives on
            name, answer = None, {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        if name == "quit":
            break


if __name__ == "__main__":
    main()
