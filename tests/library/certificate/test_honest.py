"""What is honest stays proven: layers that compute what they are taken for, or say otherwise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.certificate import hostile_branches, parts
from tests.library.reference import steepest
from tf_iresnet import certify
from tf_iresnet.layers import (
    ActNorm,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    SpectralDense,
)


class Described(SpectralDense):
    """A subclass that says no more than how it is made."""

    def __init__(self, units=4, note="", **arguments):
        super().__init__(units, coeff=0.9, **arguments)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


class Halved(SpectralDense):
    """States its bound where it changes what is computed."""

    def call(self, x, **arguments):
        return 0.5 * super().call(x, **arguments)

    def lipschitz_bound(self):
        return 0.5 * super().lipschitz_bound()


class Stated:
    """A mix-in that states a bound, for a layer that computes."""

    def lipschitz_bound(self):
        return 0.5


class Cosine(keras.layers.Layer):
    def call(self, x):
        return 0.5 * tf.cos(x)


class StatedCosine(Stated, Cosine):
    pass


class Flow(InvertibleSequential):
    """A composition that is made in its own way."""

    def __init__(self, **arguments):
        super().__init__([ActNorm(dtype="float64"), parts.block()], **arguments)


class Chain(keras.Sequential):
    """A chain that is made in its own way."""

    def __init__(self, **arguments):
        layers = [parts.dense(), LipSwish(dtype="float64"), parts.dense()]
        super().__init__([keras.Input((parts.SIZE,), dtype="float64"), *layers], **arguments)


class Sine:
    """An activation of one's own."""

    def __call__(self, x):
        return tf.sin(x)

    def lipschitz_bound(self):
        return 1.0


def number(kind):
    return type("Number", (hostile_branches.Slope,), {"lipschitz_bound": lambda self: kind(0.5)})


def wrapped():
    layer = keras.layers.TimeDistributed(parts.dense(), dtype="float64")
    return parts.built(layer, (3, parts.SIZE))


def orthogonal():
    """Moves entries, and drops none in inference."""
    layers = [
        keras.layers.Dropout(0.5, dtype="float64"),
        keras.layers.GaussianNoise(1.0, dtype="float64"),
        keras.layers.Reshape((2, 2), dtype="float64"),
        keras.layers.Permute((2, 1), dtype="float64"),
        keras.layers.Flatten(dtype="float64"),
        keras.layers.Identity(dtype="float64"),
    ]
    return parts.chain(parts.dense(), *layers)


HONEST = {
    "spectral layer": (parts.dense, 0.9),
    "described": (lambda: parts.dense(lambda units, coeff, **a: Described(units, **a)), 0.9),
    "halved": (lambda: parts.dense(Halved), 0.45),
    "halved in a chain": (lambda: parts.chain(parts.dense(), parts.dense(Halved)), 0.405),
    "branch": (parts.branch, 0.9),
    "dense branch": (parts.densenet, 0.856),
    "mix-in": (lambda: parts.built(StatedCosine(dtype="float64")), 0.5),
    "chain of one's own": (Chain, 0.81),
    "chain in a chain": (lambda: parts.chain(parts.chain(parts.dense())), 0.9),
    "isometries": (orthogonal, 0.9),
    "wrapper": (wrapped, 0.9),
    "activation by name": (lambda: parts.dense(activation="tanh"), 0.9),
    "activation a layer": (lambda: parts.dense(activation=LipSwish(dtype="float64")), 0.9),
    "activation of one's own": (lambda: parts.dense(activation=Sine()), 0.9),
    "elu": (lambda: parts.chain(parts.dense(), keras.layers.ELU(-0.5, dtype="float64")), 0.9),
    "relu": (
        lambda: parts.chain(
            parts.dense(), keras.layers.ReLU(2.0, negative_slope=0.3, dtype="float64")
        ),
        0.9,
    ),
    "numpy's number": (lambda: parts.built(number(np.float64)()), 0.5),
    "TensorFlow's number": (lambda: parts.built(number(tf.constant)()), 0.5),
    "zero": (lambda: parts.built(hostile_branches.stating(0)()), 0.0),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_is_honest_stays_proven(name):
    make, bound = HONEST[name]
    layer = make()
    certificate = certify(layer)
    assert certificate.invertible
    assert certificate.not_proven == ()
    assert certificate.contraction == pytest.approx(bound, rel=1e-3)
    event = (3, parts.SIZE) if name == "wrapper" else (parts.SIZE,)
    if name != "zero":  # which states what is not so, and is taken at its word
        assert steepest(layer, event) <= certificate.contraction * (1 + 1e-9)


def test_a_composition_made_in_its_own_way_is_taken_apart():
    flow = Flow(dtype="float64", name="flow")
    flow.build((None, parts.SIZE))
    certificate = certify(flow)
    assert certificate.invertible
    assert [block.bound for block in certificate.blocks] == [flow.layers[1].lipschitz_bound()]


def test_a_subclass_of_a_block_states_its_own_bound():
    class Halving(InvertibleResidual):
        """x + g(x) / 2."""

        def forward(self, x, training=False, context=None):
            return 0.5 * (x + super().forward(x, training, context))

        def _inverse(self, y, context=None):
            raise NotImplementedError

        def lipschitz_bound(self):
            return 0.5 * super().lipschitz_bound()

    block = parts.block(Halving)
    certificate = certify(block)
    assert certificate.contraction == pytest.approx(0.45, rel=1e-6)
    assert certificate.blocks[0].parts[0].kind == "Halving"
    truth = steepest(lambda x: block.forward(x) - x, (parts.SIZE,))
    assert truth <= certificate.contraction * (1 + 1e-9)
