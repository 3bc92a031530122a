"""Every invertible layer and composition, for the suites that check their contract."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_iresnet.layers import (
    ActNorm,
    Conditioned,
    DenseNetBranch,
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MultiScale,
    SpectralLayer,
    Squeeze,
    Whitening,
)
from tf_iresnet.layers.densenet import ConcatenatedLayer


@keras.saving.register_keras_serializable("tf_iresnet_tests")
class SineBranch(keras.layers.Layer):
    """g(x) = sin(roll(x) w + b) / 2 with |w| <= 1: a user's own branch."""

    def build(self, input_shape):
        self.angle = self.add_weight(name="angle", shape=input_shape[1:])
        self.bias = self.add_weight(name="bias", shape=input_shape[1:], initializer="ones")
        self.built = True

    def call(self, x):
        return 0.5 * tf.sin(tf.roll(x, 1, -1) * tf.cos(self.angle) + self.bias)

    def compute_output_shape(self, input_shape):
        return input_shape

    def lipschitz_bound(self):
        return 0.5


class Case(NamedTuple):
    """A layer, the shape of one example, and whether its log-determinant is estimated."""

    make: Callable[..., InvertibleLayer]
    event: tuple[int, ...]
    estimated: bool = True


def _residual(event, **arguments):
    return Case(lambda dtype: InvertibleResidual(**arguments, dtype=dtype), event)


def _small(dtype, **arguments):
    return InvertibleResidual(hidden=4, kernel_sizes=(3, 1), coeff=0.8, dtype=dtype, **arguments)


def _own(dtype):
    branch = SineBranch(dtype="float64" if dtype == "float64" else "float32")
    return InvertibleResidual(branch, dtype=dtype)


def _densenet(dtype):
    return InvertibleResidual(DenseNetBranch(growth=4, depth=2, dtype=dtype), dtype=dtype)


def _conditioned(dtype):
    layers = [ActNorm(dtype=dtype), _small(dtype, context_size=2)]
    return Conditioned(InvertibleSequential(layers, dtype=dtype), [0.7, -1.2])


def _sequential(dtype):
    layers = [Squeeze(dtype=dtype), ActNorm(dtype=dtype), _small(dtype), _small(dtype)]
    return InvertibleSequential(layers, dtype=dtype)


def _multi_scale(factor_out):
    def make(dtype):
        first = [Squeeze(dtype=dtype), ActNorm(dtype=dtype), _small(dtype)]
        last = [Squeeze(dtype=dtype), _small(dtype, activation="elu"), ActNorm(dtype=dtype)]
        scales = [InvertibleSequential(layers, dtype=dtype) for layers in (first, last)]
        return MultiScale(scales, factor_out=factor_out, dtype=dtype)

    return Case(make, (4, 4, 1))


CASES = {
    "dense": _residual((5,), hidden=7),
    "dense elu": _residual((5,), hidden=7, activation="elu", kernel_sizes=(1, 1), coeff=0.97),
    "dense softplus": _residual((3,), hidden=7, activation="softplus", kernel_sizes=(1, 1)),
    "dense tanh": _residual((3,), hidden=7, activation="tanh", input_activation=False, coeff=0.5),
    "dense maxmin": _residual((4,), hidden=8, activation="maxmin", kernel_sizes=(1, 1)),
    "dense one layer": _residual((3,), kernel_sizes=(1,), power_iterations=1),
    "conv 1-D": _residual((6, 2), hidden=4, kernel_sizes=(3, 2), activation="elu"),
    "conv 2-D": _residual((4, 3, 2), hidden=5),
    "conv 2-D without input activation": _residual(
        (3, 3, 2), hidden=4, kernel_sizes=(3, 3), input_activation=False, coeff=0.6
    ),
    "dense by a bound": _residual((5,), hidden=7, normalization="bound"),
    "conv 2-D by a bound": _residual(
        (4, 3, 2), hidden=5, kernel_sizes=(3, 1), normalization="bound"
    ),
    "conv 3-D": _residual((2, 3, 2, 2), hidden=3, kernel_sizes=(3, 1)),
    "own branch": Case(_own, (4,)),
    "conv 2-D recomputed": _residual((4, 3, 2), hidden=5, recompute=True),
    "dense recomputed elu": _residual((5,), hidden=7, activation="elu", recompute=True),
    "unconstrained": _residual((3,), hidden=3, coeff=None, kernel_sizes=(1, 1)),
    "densenet": Case(_densenet, (3, 3, 2)),
    "conditioned": Case(_conditioned, (3, 2, 2)),
    "actnorm": Case(lambda dtype: ActNorm(dtype=dtype), (3,), False),
    "actnorm of images": Case(lambda dtype: ActNorm(dtype=dtype), (2, 3, 2), False),
    "whitening": Case(lambda dtype: Whitening(dtype=dtype), (3,), False),
    "whitening of images": Case(lambda dtype: Whitening(dtype=dtype), (2, 3, 2), False),
    "squeeze 1-D": Case(lambda dtype: Squeeze(3, dtype=dtype), (6, 2), False),
    "squeeze 2-D": Case(lambda dtype: Squeeze(dtype=dtype), (4, 2, 3), False),
    "squeeze 3-D": Case(lambda dtype: Squeeze(dtype=dtype), (2, 4, 2, 1), False),
    "sequential": Case(_sequential, (4, 4, 1)),
    "multi-scale": _multi_scale(True),
    "multi-scale without factoring out": _multi_scale(False),
}
# Every kind of map, bound and composition once: the others differ from one of these in an
# activation, a shape or a number of axes.
KINDS = (
    "dense",
    "conv 2-D",
    "conv 2-D by a bound",
    "own branch",
    "conv 2-D recomputed",
    "densenet",
    "conditioned",
    "actnorm",
    "whitening of images",
    "squeeze 2-D",
    "multi-scale",
    "multi-scale without factoring out",
)
# What `make` and `inputs` know: others may add layers of their own.
KNOWN = dict(CASES)


def representatives(names, chosen=KINDS):
    """The names as parameters of a test; those that are not chosen are for `make soak`."""
    return [n if n in chosen else pytest.param(n, marks=pytest.mark.soak) for n in names]


@functools.singledispatch
def randomize_part(part, rng) -> None:
    """Draws the weights of one layer by itself; one that is not registered keeps its own."""


@randomize_part.register
def _(part: SpectralLayer, rng) -> None:
    # Larger than coeff, if there is one: it is at work then.
    scale = 0.4 if part.coeff is None else 2.0
    noise = rng.standard_normal(part.kernel.shape)
    part.kernel.assign(scale * noise / np.linalg.norm(noise))
    part.bias.assign(0.5 * rng.standard_normal(part.bias.shape))
    if part.context_size is not None:
        part.context_kernel.assign(rng.standard_normal(part.context_kernel.shape))


@randomize_part.register
def _(part: ConcatenatedLayer, rng) -> None:
    part.raw_weights.assign(rng.uniform(-1.0, 1.0, 2))


@randomize_part.register
def _(part: ActNorm, rng) -> None:
    part.log_scale.assign(0.5 * rng.standard_normal(part.log_scale.shape))
    part.bias.assign(rng.standard_normal(part.bias.shape))


@randomize_part.register
def _(part: Whitening, rng) -> None:
    noise = np.tril(0.3 * rng.standard_normal(part.matrix.shape), -1)
    part.matrix.assign(noise + np.diag(np.exp(noise[-1])))
    part.mean.assign(rng.standard_normal(part.mean.shape))


@randomize_part.register
def _(part: LipSwish, rng) -> None:
    part.beta.assign(rng.uniform(-0.5, 2.0))


@randomize_part.register
def _(part: SineBranch, rng) -> None:
    part.angle.assign(rng.uniform(0.2, 1.0, part.angle.shape))


def randomize(layer: InvertibleLayer, seed: int = 0) -> None:
    """Draws all weights, so that biases, scales and constraints matter."""
    rng = np.random.default_rng(seed)
    for part in layer._flatten_layers():
        randomize_part(part, rng)
    layer.converge_spectral_state()


@functools.cache
def _made(name: str, dtype: str) -> tuple[InvertibleLayer, list[np.ndarray]]:
    case = KNOWN[name]
    keras.utils.set_random_seed(0)
    layer = case.make(dtype)
    layer.build((None, *case.event))
    randomize(layer)
    return layer, [v.numpy() for v in layer.variables]


def make(name: str, dtype: str = "float32") -> InvertibleLayer:
    """The named layer, built and with random weights; one instance, its weights reset."""
    layer, values = _made(name, dtype)
    for variable, value in zip(layer.variables, values, strict=True):
        variable.assign(value)
    return layer


def inputs(name: str, batch: int = 3, dtype: str = "float32", seed: int = 1) -> np.ndarray:
    """Standard normal inputs for the named layer."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, *KNOWN[name].event)).astype(dtype)
