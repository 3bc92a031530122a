"""Two-dimensional densities drawn from a seed, in about the square from -4 to 4."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from training.data.spec import SPLITS, Arrays, Dataset, DataSpec, SplitRange

Points = tuple[np.ndarray, np.ndarray]  # positions [n, 2] and labels [n]


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _moons(rng: np.random.Generator, n: int) -> Points:
    label = rng.integers(2, size=n)
    arc = _polar(np.ones(n), rng.uniform(0, np.pi, n))
    lower = np.array([1.0, 0.5]) - arc
    points = np.where(label[:, None] == 0, arc, lower) - np.array([0.5, 0.25])
    return 2 * (points + rng.normal(scale=0.06, size=(n, 2))), label


def _concentric(rng: np.random.Generator, n: int, radii: list[float]) -> Points:
    label = rng.integers(len(radii), size=n)
    circle = _polar(np.array(radii)[label], rng.uniform(0, 2 * np.pi, n))
    return circle + rng.normal(scale=0.08, size=(n, 2)), label


def _circles(rng: np.random.Generator, n: int) -> Points:
    return _concentric(rng, n, [1.5, 3.0])


def _rings(rng: np.random.Generator, n: int) -> Points:
    return _concentric(rng, n, [0.9, 1.8, 2.7, 3.6])


def _checkerboard(rng: np.random.Generator, n: int) -> Points:
    column = rng.integers(4, size=n)
    row = 2 * rng.integers(2, size=n) + column % 2
    return 2 * (np.stack([column, row], axis=1) + rng.random((n, 2))) - 4, np.zeros(n)


def _eight_gaussians(rng: np.random.Generator, n: int) -> Points:
    label = rng.integers(8, size=n)
    centre = _polar(np.full(n, 3.0), label * np.pi / 4)
    return centre + rng.normal(scale=0.3, size=(n, 2)), label


def _spirals(rng: np.random.Generator, n: int) -> Points:
    label = rng.integers(2, size=n)
    reach = np.sqrt(rng.random(n))  # the root spreads points evenly along the arm
    arm = _polar(3.5 * reach, 3 * np.pi * reach + np.pi * label)
    return arm + rng.normal(scale=0.1, size=(n, 2)), label


def _pinwheel(rng: np.random.Generator, n: int) -> Points:
    label = rng.integers(5, size=n)
    blade = rng.normal(size=(n, 2)) * np.array([0.6, 0.2]) + np.array([2.0, 0.0])
    turn = 2 * np.pi * label / 5 + 0.7 * blade[:, 0]  # the further out, the further round
    cos, sin = np.cos(turn), np.sin(turn)
    x = cos * blade[:, 0] - sin * blade[:, 1]
    y = sin * blade[:, 0] + cos * blade[:, 1]
    return np.stack([x, y], axis=1), label


class _Toy(NamedTuple):
    draw: Callable[[np.random.Generator, int], Points]
    num_classes: int | None


_TOYS = {
    "toy_moons": _Toy(_moons, 2),
    "toy_circles": _Toy(_circles, 2),
    "toy_checkerboard": _Toy(_checkerboard, None),
    "toy_eight_gaussians": _Toy(_eight_gaussians, 8),
    "toy_spirals": _Toy(_spirals, 2),
    "toy_rings": _Toy(_rings, 4),
    "toy_pinwheel": _Toy(_pinwheel, 5),
}
TOY_NAMES = tuple(_TOYS)


def toy(name: str, *, size: int = 20_000, seed: int = 0) -> Dataset:
    """Describes a density of float32 points in the plane; each split has a generator of its own.

    Args:
      name: one of `TOY_NAMES`.
      size: the number of training points; validation and test have a quarter of it each.
      seed: another seed draws other points of the same density.

    Raises:
      ValueError: if `size` or `seed` is out of range.
    """
    if size < 4:
        raise ValueError(f"size={size} leaves a split of {name!r} empty; use at least 4")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; use 0 or more")
    draw, num_classes = _TOYS[name]

    def read(split: str) -> Arrays:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), SPLITS.index(split)])
        x, y = draw(rng, sizes[split])
        return Arrays(x.astype(np.float32), None if num_classes is None else y.astype(np.int32))

    sizes = {"train": size, "validation": size // 4, "test": size // 4}
    ranges = {split: SplitRange(split, 0, count) for split, count in sizes.items()}
    return Dataset(DataSpec(name, (2,), None, num_classes, ranges), read)
