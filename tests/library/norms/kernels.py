"""Convolutions that bounds find hard, each with the size and padding it is used at."""

import functools
from collections.abc import Iterator

import numpy as np

from tests.library.reference import DATA

_TRAINED = "trained_kernels.npz"  # corners of kernels of the committed MNIST flow


@functools.cache
def trained() -> list[np.ndarray]:
    """Kernels [3, 3, inputs, outputs] after thousands of steps of training."""
    with np.load(DATA / _TRAINED) as arrays:
        return [arrays[name].astype(np.float64) for name in arrays.files]


def _normal(rng, shape):
    return rng.standard_normal(shape)


def _rank_one(rng, shape):
    return functools.reduce(np.multiply.outer, [rng.standard_normal(n) for n in shape])


def _sparse(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.25)


def _smooth(rng, shape):
    return np.abs(rng.standard_normal(shape)) + 1.0


def _alternating(rng, shape):
    return (-1.0) ** np.indices(shape[:-2]).sum(0)[..., None, None] * _smooth(rng, shape)


def _equal(rng, shape):
    """A scaled isometry and a little noise: nearly all singular values lead."""
    kernel = np.zeros(shape)
    middle = tuple((k - 1) // 2 for k in shape[:-2])
    size = max(shape[-2:])
    kernel[middle] = np.linalg.qr(rng.standard_normal((size, size)))[0][: shape[-2], : shape[-1]]
    return kernel + 10.0 ** rng.uniform(-12, -3) * rng.standard_normal(shape)


def _one_tap(rng, shape):
    kernel = np.zeros(shape)
    kernel[tuple(rng.integers(0, n) for n in shape)] = rng.standard_normal()
    return kernel


def _zeros(rng, shape):
    return np.zeros(shape)


KINDS = (_normal, _rank_one, _sparse, _smooth, _alternating, _equal, _one_tap)
_SIZES = {1: ((1, 12), (1, 5)), 2: ((1, 6), (1, 4)), 3: ((1, 3), (1, 3))}


def operators(count: int, seed: int) -> Iterator[tuple[np.ndarray, tuple[int, ...], str]]:
    """Yields kernels with a spatial shape and a padding: every kind, rank, parity and scale."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        rank = 1 + index % 3
        (least, most), (low, high) = _SIZES[rank]
        sizes = rng.integers(least, most + 1, rank)
        taps = rng.integers(low, high + 1, rank)
        shape = (*map(int, taps), *map(int, rng.integers(1, 5, 2)))
        if index % 41 == 0:
            kernel = _zeros(rng, shape)
        elif index % 15 == 1:  # of rank 2
            kernel = trained()[index // 15 % len(trained())]
        else:
            kernel = KINDS[index // 3 % len(KINDS)](rng, shape)
        if index % 4 == 0:
            kernel = kernel * 10.0 ** rng.uniform(-140, 140)
        paddings = ["same", "valid", "causal"][: 3 if rank == 1 else 2]
        padding = paddings[int(rng.integers(len(paddings)))]
        if padding == "valid":
            sizes = np.maximum(sizes, kernel.shape[:rank])
        yield kernel, tuple(map(int, sizes)), padding
