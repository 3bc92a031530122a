"""Activations, and layers of Keras, that look tamer than they are."""

import keras
import numpy as np

from tests.library.certificate.hostile_branches import OwnLipSwish
from tests.library.certificate.parts import EYE, SIZE, Case, built, chain, dense, set_to

# --- activations ---


def tanh(x):
    return 3 * x


class Gentle:
    """States its constant; its subclass does not."""

    def __call__(self, x):
        return x

    def lipschitz_bound(self):
        return 1.0


class Steeper(Gentle):
    def __call__(self, x):
        return 3 * x


class AllEqual:
    """Equal to everything, and to be found in any dictionary."""

    __name__ = "tanh"

    def __call__(self, x):
        return 3 * x

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash(keras.activations.tanh)


def attributed():
    activation = Steeper()
    activation.lipschitz_bound = lambda: 1.0
    return activation


# --- Keras' own ---


def functional():
    """One layer twice: d(x) + d(x)."""
    x, layer = keras.Input((SIZE,), dtype="float64"), dense()
    return keras.Model(x, layer(x) + layer(x))


def keras_dense():
    layer = built(keras.layers.Dense(SIZE, dtype="float64"))
    layer.kernel.assign(3 * EYE)
    return layer


def batch_normalization():
    layer = built(keras.layers.BatchNormalization(dtype="float64"))
    layer.gamma.assign(np.full(SIZE, 3.0))
    return layer


def recurrent():
    inner = keras.layers.SimpleRNN(
        SIZE, activation=None, return_sequences=True, dtype="float64", kernel_initializer="identity"
    )
    layer = keras.layers.Bidirectional(inner, merge_mode="sum", dtype="float64")
    layer.build((None, 3, SIZE))
    for weight in layer.weights:
        weight.assign(2.0 * weight)
    return layer


def attention():
    keras.utils.set_random_seed(0)
    inner = keras.layers.MultiHeadAttention(1, SIZE, dtype="float64")
    x = keras.Input((3, SIZE), dtype="float64")
    model = keras.Model(x, inner(x, x))
    for weight in model.weights:
        weight.assign(3.0 * weight)
    return model


BRANCHES = {
    "elu": Case(lambda: chain(dense(), keras.layers.ELU(-3.0, dtype="float64")), 0.9),
    "leaky relu": Case(
        lambda: chain(
            dense(), set_to(keras.layers.LeakyReLU(dtype="float64"), negative_slope=-3.0)
        ),
        0.9,
    ),
    "relu": Case(
        lambda: chain(dense(), set_to(keras.layers.ReLU(dtype="float64"), negative_slope=-3.0)), 0.9
    ),
    "relu with a jump": Case(
        lambda: chain(dense(), keras.layers.ReLU(threshold=0.5, dtype="float64")), 0.9, "threshold"
    ),
    "relu with a jump below 0": Case(
        lambda: chain(dense(), set_to(keras.layers.ReLU(dtype="float64"), threshold=-0.5)),
        0.9,
        "threshold",
    ),
    "prelu": Case(
        lambda: chain(
            dense(),
            keras.layers.PReLU(keras.initializers.Constant(3.0), dtype="float64"),
        ),
        0.9,
        "PReLU",
    ),
    "lambda": Case(lambda: dense(activation=lambda x: 3 * x), 0.9, "<lambda>"),
    "a function called tanh": Case(lambda: dense(activation=tanh), 0.9, "tanh"),
    "activation of a stated class": Case(lambda: dense(activation=Steeper()), 0.9, "Steeper"),
    "bound on an activation": Case(lambda: dense(activation=attributed()), 0.9, "replaced"),
    "activation that equals tanh": Case(lambda: dense(activation=AllEqual()), 0.9, "activation"),
    "activation a layer": Case(
        lambda: dense(activation=OwnLipSwish(dtype="float64")), 0.9, "OwnLipSwish"
    ),
    "activation layer": Case(
        lambda: chain(keras.layers.Activation(tanh, dtype="float64")), 1.0, "tanh"
    ),
    "layer used twice": Case(functional, 0.9, "functional"),
    "Dense": Case(keras_dense, 0.9, "Dense"),
    "BatchNormalization": Case(batch_normalization, 0.9, "BatchNormalization"),
    "Lambda": Case(
        lambda: built(keras.layers.Lambda(lambda x: 3 * x, dtype="float64")), 0.9, "Lambda"
    ),
    "Rescaling": Case(
        lambda: built(keras.layers.Rescaling(3.0, dtype="float64")), 0.9, "Rescaling"
    ),
    "MultiHeadAttention": Case(attention, 0.9, "functional", (3, SIZE)),
    "Bidirectional": Case(recurrent, 0.9, "Bidirectional", (3, SIZE)),
    "activation of a branch of one layer": Case(lambda: dense(activation="sigmoid"), 0.2),
}
