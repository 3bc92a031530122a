"""Layers of a known norm, what is put around them, and what is changed in them afterwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.layers import (
    ActNorm,
    DenseNetBranch,
    InvertibleResidual,
    SpectralBranch,
    SpectralDense,
)

SIZE = 4
EYE = np.eye(SIZE)
COEFF = 0.9


class Case(NamedTuple):
    """A built layer, what it passes for, and a word that its refusal holds."""

    make: Callable[[], Any]
    believed: float
    word: str = ""
    event: tuple[int, ...] = (SIZE,)


def dense(kind=SpectralDense, scale=5.0, **arguments):
    """A spectral layer of norm coeff in every direction."""
    layer = kind(SIZE, coeff=COEFF, dtype="float64", **arguments)
    layer.build((None, SIZE))
    layer.kernel.assign(scale * EYE)
    layer.converge_spectral_state()
    return layer


def branch(kind=SpectralBranch, **arguments):
    """A branch of one spectral layer, of norm coeff in every direction."""
    layer = kind(
        kernel_sizes=(1,), input_activation=False, coeff=COEFF, dtype="float64", **arguments
    )
    layer.build((None, SIZE))
    for part in layer.parts:
        part.kernel.assign(5.0 * EYE)
        part.converge_spectral_state()
    return layer


def densenet(kind=DenseNetBranch, **arguments):
    keras.utils.set_random_seed(0)
    layer = kind(growth=4, depth=1, coeff=COEFF, dtype="float64", **arguments)
    layer.build((None, SIZE))
    for part in layer._flatten_layers():
        if isinstance(part, SpectralDense):
            part.kernel.assign(20.0 * part.kernel)
            part.converge_spectral_state()
    return layer


def block(kind=InvertibleResidual, sign=1.0):
    layer = kind(branch(), dtype="float64")
    layer.build((None, SIZE))
    for part in layer.spectral_layers():
        part.kernel.assign(sign * part.kernel)
        part.converge_spectral_state()
    return layer


def chain(*layers, kind=keras.Sequential, event=(SIZE,)):
    return kind([keras.Input(event, dtype="float64"), *layers])


def built(layer, event=(SIZE,)):
    layer.build((None, *event))
    return layer


class Own(keras.layers.Layer):
    """A user's layer of full precision that keeps the shape."""

    def __init__(self, **attributes):
        super().__init__(dtype="float64")
        for name, value in attributes.items():
            setattr(self, name, value)

    def build(self, input_shape):
        self.built = True

    def compute_output_shape(self, input_shape):
        return input_shape


def replaced(layer, name, function):
    setattr(layer, name, function)
    return layer


def doubled(layer, name="call"):
    """Doubles what one of a layer's methods returns, for this instance alone."""
    before = getattr(layer, name)

    def after(*args, **kwargs):
        result = before(*args, **kwargs)
        return [2 * p for p in result] if isinstance(result, list) else 2 * result

    return replaced(layer, name, after)


def set_to(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def scaled_actnorm(scale, kind=ActNorm):
    layer = kind(dtype="float64", name="actnorm")
    layer.build((None, SIZE))
    layer.log_scale.assign(np.full(SIZE, np.log(scale)))
    return layer


def misled(coeff=0.9):
    """A block whose power iteration sees 0.1 although its first kernel has norm 1.5."""
    block = InvertibleResidual(
        hidden=3, kernel_sizes=(1, 1), coeff=coeff, name="misled", normalization="power_iteration"
    )
    block.build((None, 3))
    first, last = block.branch._linear
    first.kernel.assign(np.diag([1.5, 0.1, 0.1]))
    last.kernel.assign(np.diag([0.8, 0.8, 0.8]))
    for vector in (first.u, first.v):
        vector.assign([[0.0, 1.0, 0.0]])
    kernel = tf.convert_to_tensor(first.kernel)
    first.known_norm.assign(kernel, tf.constant(0.1), tf.zeros_like(kernel))
    return block
