"""Spectral layers at small sizes, their kernels, and their operators written out densely."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import conv_matrix
from tf_iresnet.layers import SpectralConv1D, SpectralConv2D, SpectralConv3D, SpectralDense

COEFF = 0.8
# constructor, input shape without the batch, padding
CASES = {
    "dense wide": (lambda **o: SpectralDense(9, **o), (4,), None),
    "dense tall": (lambda **o: SpectralDense(3, **o), (7,), None),
    "dense on images": (lambda **o: SpectralDense(4, **o), (3, 2, 5), None),
    "conv 1-D same": (lambda **o: SpectralConv1D(3, 3, **o), (7, 2), "same"),
    "conv 1-D even same": (lambda **o: SpectralConv1D(3, 4, **o), (5, 2), "same"),
    "conv 1-D valid": (lambda **o: SpectralConv1D(3, 3, padding="valid", **o), (7, 2), "valid"),
    "conv 1-D causal": (lambda **o: SpectralConv1D(3, 3, padding="causal", **o), (7, 2), "causal"),
    "conv 2-D same": (lambda **o: SpectralConv2D(4, 3, **o), (5, 6, 2), "same"),
    "conv 2-D valid": (
        lambda **o: SpectralConv2D(4, (3, 2), padding="valid", **o),
        (5, 6, 2),
        "valid",
    ),
    "conv 2-D one tap": (lambda **o: SpectralConv2D(4, 1, **o), (3, 2, 5), "same"),
    "conv 3-D same": (lambda **o: SpectralConv3D(2, (3, 1, 2), **o), (3, 2, 4, 2), "same"),
    "conv 3-D valid": (
        lambda **o: SpectralConv3D(2, 2, padding="valid", **o),
        (3, 3, 3, 2),
        "valid",
    ),
}
every = pytest.mark.parametrize("name", CASES)
some = pytest.mark.parametrize(
    "name", [n for n in CASES if "tall" in n or n.endswith("causal") or "D same" in n]
)
# The others run through the same code.
mostly_soak = pytest.mark.parametrize(
    "name",
    [n if n in some.args[1] else pytest.param(n, marks=pytest.mark.soak) for n in CASES],
)


def build(name, norm, dtype="float32", **options):
    """The layer, with a random kernel of the given operator norm set by hand."""
    keras.utils.set_random_seed(0)
    maker, shape, _ = CASES[name]
    layer = maker(**{"coeff": COEFF, "dtype": dtype, "normalization": "power_iteration", **options})
    layer.build((None, *shape))
    kernel = np.random.default_rng(1).standard_normal(layer.kernel.shape)
    layer.kernel.assign(norm * kernel / np.linalg.norm(matrix(name, kernel), 2))
    return layer


def iterate(layer, iterations=1000):
    """Many steps of the power iteration, in a graph: eager loops are slow."""
    tf.function(layer.update_spectral_state)(iterations)


def matrix(name, kernel):
    """The operator of a kernel, from the definition."""
    _, shape, padding = CASES[name]
    kernel = np.asarray(kernel, np.float64)
    return kernel if padding is None else conv_matrix(kernel, shape[:-1], padding)
