"""How far each bound of a convolution's norm lies above the norm, as a picture.

`python -m benchmarks.slack --out slack.png [--run DIR]`: random kernels against singular values of
the dense operator, and the kernels of a trained flow against the verified norm at their size.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.norms import conv_norm_bound, gram
from tf_iresnet.norms.dense import dense_matrix
from tf_iresnet.norms.symbol import sized_grid, symbol_bound

NAMES = (
    "every size: torus",
    "in training: Gram iteration",
    "one size: circular, best shift",
    "one size: factorised",
)
COLOURS = ("tab:gray", "tab:orange", "tab:blue", "tab:green")


def slacks(kernel: np.ndarray, sizes: tuple[int, ...], truth: float) -> list[float]:
    """Returns the slack of each bound in percent."""
    pairs = zip(kernel.shape, sizes, strict=False)
    bounds = (
        conv_norm_bound(kernel),
        float(gram.norm_bounds(map_for_kernel(kernel.shape, sizes), tf.constant(kernel)[None])[0]),
        symbol_bound(kernel, tuple(sized_grid(k, n, "same", len(sizes)) for k, n in pairs)),
        conv_norm_bound(kernel, sizes),
    )
    return [100 * (bound / truth - 1) for bound in bounds]


def random_kernels(count: int) -> Iterator[tuple[np.ndarray, tuple[int, int], float]]:
    """Yields normal and smooth 3x3 kernels, the image's size, and the dense operator's norm."""
    rng = np.random.default_rng(0)
    for index in range(count):
        kernel = rng.standard_normal((3, 3, 4, 6))
        kernel = np.abs(kernel) if index % 2 else kernel
        yield kernel, (7, 7), float(np.linalg.norm(dense_matrix(kernel, (7, 7)), 2))


def trained_kernels(folder: str) -> Iterator[tuple[np.ndarray, tuple[int, ...], float]]:
    """Yields the 3x3 kernels of a run's flow, with the verified norm as the truth."""
    from training.measures.finished import open_finished

    for layer in open_finished(folder).model.flow.spectral_layers():
        if layer.kernel.shape[0] > 1:
            kernel = np.asarray(layer.kernel, np.float64)
            sizes = layer.linear_map.spatial_shape
            yield kernel, sizes, conv_norm_bound(kernel, sizes)


def draw(sets: dict[str, list[list[float]]], out: Path) -> None:
    """Draws the share of kernels whose slack is below a number."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(sets), figsize=(5.2 * len(sets), 3.8), sharey=True, squeeze=False
    )
    for axis, (title, rows) in zip(axes[0], sets.items(), strict=True):
        for name, colour, column in zip(NAMES, COLOURS, zip(*rows, strict=True), strict=True):
            values = np.sort(column)
            share = np.arange(1, len(values) + 1) / len(values)
            axis.step([0, *values], [0, *share], where="post", label=name, color=colour)
        axis.set(title=title, xlabel="bound above the norm, %", xlim=(-0.2, None))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of kernels")
    axes[0][-1].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="The picture to write.")
    parser.add_argument("--run", help="The folder of a trained flow.")
    parser.add_argument("--count", type=int, default=120, help="How many random kernels.")
    options = parser.parse_args()
    cases: dict[str, Iterable[Any]] = {
        f"{options.count} random 3x3 kernels, 7x7": random_kernels(options.count)
    }
    if options.run:
        cases["3x3 kernels of a trained flow"] = trained_kernels(options.run)
    sets = {title: [slacks(*case) for case in kernels] for title, kernels in cases.items()}
    draw(sets, options.out)
    for title, rows in sets.items():
        print(title)
        for name, column in zip(NAMES, zip(*rows, strict=True), strict=True):
            low, middle, high = np.quantile(column, [0, 0.5, 1])
            print(f"  {name:32} {low:8.4f} % to {high:8.4f} %, median {middle:8.4f} %")


if __name__ == "__main__":
    main()
