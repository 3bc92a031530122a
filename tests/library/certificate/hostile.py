"""Branches and layers that look tamer than they are, for the suite that certifies them.

Each comes with what a reader of its attributes would believe, and computes something steeper.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.layers import (
    ActNorm,
    DenseNetBranch,
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MultiScale,
    SpectralBranch,
    SpectralDense,
    Squeeze,
    Whitening,
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


# --- attributes that are none of a certificate's business ---


class Parallel(Own):
    """a(x) + b(x) of layers in one attribute."""

    attribute = "parts"

    def call(self, x):
        first, second = getattr(self, self.attribute)
        return first(x) + second(x)


class HonestParallel(Parallel):
    def call(self, x):
        return super().call(x)

    def lipschitz_bound(self):
        return sum(part.lipschitz_bound() for part in self.parts)


class ParallelLayers(Parallel):
    attribute = "layers"


class Twice(Own):
    """2 h(x), with h in one attribute."""

    def __init__(self, name, layer):
        super().__init__(**{name: layer})
        self.inner = getattr(self, name)

    def call(self, x):
        return 2 * self.inner(x)


class Triple(Own):
    def call(self, x):
        return 3.0 * x


def stating(value):
    """A layer 3 x whose class states a value for its bound."""
    return type("Stating", (Triple,), {"lipschitz_bound": lambda self: value})


class Constant(Triple):
    lipschitz_bound = 0.5


# --- subclasses ---


class OwnCall(SpectralDense):
    def call(self, x, **arguments):
        return 2 * super().call(x, **arguments)


class OwnParameters(SpectralDense):
    def function_parameters(self, context=None):
        return [2 * p for p in super().function_parameters(context)]


class OwnKernel(SpectralDense):
    def norm_bound(self):
        return 0.5


class Wild:
    """A mix-in that doubles what it is mixed into."""

    def __call__(self, *args, **kwargs):
        return 2 * super().__call__(*args, **kwargs)


class Mixed(Wild, SpectralDense):
    pass


class Spoken(SpectralDense):
    """Its bound is right; that of its subclass is not."""

    def call(self, x, **arguments):
        return 0.5 * super().call(x, **arguments)

    def lipschitz_bound(self):
        return 0.5 * super().lipschitz_bound()


class Respoken(Spoken):
    def call(self, x, **arguments):
        return 4 * super().call(x, **arguments)


class Slope(Own):
    """slope() x."""

    def slope(self):
        return 0.5

    def call(self, x):
        return self.slope() * x

    def lipschitz_bound(self):
        return 0.5


class Steep(Slope):
    def slope(self):
        return 3.0


class OwnChain(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


class OwnBranch(SpectralBranch):
    def call(self, x, **arguments):
        return 2 * super().call(x, **arguments)


class OwnFunction(SpectralBranch):
    def function_parameters(self, context=None):
        return [2 * p for p in super().function_parameters(context)]


class Damped(SpectralBranch):
    """Half of its branch where it is called, and all of it where its function is taken."""

    def call(self, x, **arguments):
        return 0.5 * super().call(x, **arguments)

    def lipschitz_bound(self):
        return 0.5 * super().lipschitz_bound()


class OwnDenseNet(DenseNetBranch):
    def function_parameters(self, context=None):
        return [3 * p for p in super().function_parameters(context)]


class OwnLipSwish(LipSwish):
    def call(self, x):
        return 3 * super().call(x)


class OwnReLU(keras.layers.ReLU):
    def call(self, x):
        return 3 * super().call(x)


class Dropping(keras.layers.Dropout):
    """Dropout at work in inference too: what is kept is scaled."""

    def call(self, x, training=False):
        return super().call(x, training=True)


class OwnDistributed(keras.layers.TimeDistributed):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


class SteepResidual(InvertibleResidual):
    """x + 1.1 g(x)."""

    def forward(self, x, training=False, context=None):
        return 1.1 * super().forward(x, training, context) - 0.1 * x

    def _inverse(self, y, context=None):
        raise NotImplementedError


class SpokenResidual(InvertibleResidual):
    """States its branch's constant, as a block does; inside a branch it is x + g(x)."""

    def call(self, x, **arguments):
        return super().call(x, **arguments)

    def lipschitz_bound(self):
        return super().lipschitz_bound()


# --- replaced on the instance ---


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


def doctored():
    layer = densenet()
    layer.parts[0].raw_weights.assign([9.0, -9.0])
    true = layer.parts[0].weights_of_parts
    layer.parts[0].weights_of_parts = lambda: 4 * true()
    return layer


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


def unconstrained():
    layer = branch()
    for part in layer.parts:
        part.coeff = None
    return layer


def changed():
    """The kernel of a built chain is set anew, and the estimate is what it was."""
    layer = branch(normalization="power_iteration")
    (part,) = layer.parts
    part.kernel.assign(np.diag([0.1, 9.0, 0.1, 0.1]))
    if part.spectral_state:
        for vector in part.spectral_state:
            vector.assign(EYE[:1])
    return layer


BRANCHES = {
    "parts": Case(lambda: built(Parallel(parts=[dense(), dense()])), 0.81, "Parallel"),
    "parts, stated": Case(lambda: built(HonestParallel(parts=[dense(), dense()])), 0.81),
    "layers": Case(lambda: built(ParallelLayers(layers=[dense(), dense()])), 0.81, "Parallel"),
    "branch": Case(lambda: built(Twice("branch", branch())), 0.9, "Twice"),
    "linear": Case(lambda: built(Twice("linear", dense())), 0.9, "Twice"),
    "layer": Case(lambda: built(Twice("layer", dense())), 0.9, "Twice"),
    "bound on the instance": Case(
        lambda: set_to(built(Triple()), lipschitz_bound=lambda: 0.5), 0.5, "Triple"
    ),
    "bound is no method": Case(lambda: built(Constant()), 0.5, "Constant"),
    "bound NaN": Case(lambda: built(stating(np.nan)()), 0.5, "got nan"),
    "bound negative": Case(lambda: built(stating(-1.0)()), 0.5, "got -1.0"),
    "bound infinite": Case(lambda: built(stating(np.inf)()), 0.5, "got inf"),
    "bound a string": Case(lambda: built(stating("0.5")()), 0.5, "got '0.5'"),
    "bound None": Case(lambda: built(stating(None)()), 0.5, "got None"),
    "bound True": Case(lambda: built(stating(True)()), 0.5, "got True"),
    "bound an array": Case(lambda: built(stating(np.full(2, 0.5))()), 0.5, "Stating"),
    "call of a spectral layer": Case(lambda: dense(OwnCall), 0.9, "OwnCall"),
    "parameters of a spectral layer": Case(lambda: dense(OwnParameters), 0.9, "OwnParameters"),
    "norm of a spectral layer": Case(lambda: dense(OwnKernel), 0.5, "OwnKernel"),
    "mix-in": Case(lambda: dense(Mixed), 0.9, "Wild"),
    "call below a stated bound": Case(lambda: dense(Respoken), 0.45, "Respoken"),
    "helper below a stated bound": Case(lambda: built(Steep()), 0.5, "Steep"),
    "call of a chain": Case(lambda: chain(dense(), kind=OwnChain), 0.9, "OwnChain"),
    "chain in a chain": Case(lambda: chain(chain(dense(), kind=OwnChain)), 0.9, "OwnChain"),
    "call of a branch": Case(lambda: branch(OwnBranch), 0.9, "OwnBranch"),
    "parameters of a branch": Case(lambda: branch(OwnFunction), 0.9, "OwnFunction"),
    "function of a branch": Case(lambda: branch(Damped), 0.44),
    "parameters of a dense branch": Case(lambda: densenet(OwnDenseNet), 0.9, "OwnDenseNet"),
    "call of an activation": Case(
        lambda: chain(dense(), OwnLipSwish(dtype="float64")), 0.9, "OwnLipSwish"
    ),
    "call of a Keras layer": Case(lambda: chain(dense(), OwnReLU(dtype="float64")), 0.9, "OwnReLU"),
    "dropout in inference": Case(
        lambda: chain(dense(), Dropping(0.5, seed=0, dtype="float64")), 0.9, "Dropping"
    ),
    "call of a wrapper": Case(
        lambda: built(OwnDistributed(dense(), dtype="float64"), (3, SIZE)),
        0.9,
        "OwnDistributed",
        (3, SIZE),
    ),
    "replaced call": Case(lambda: doubled(dense()), 0.9, "replaced"),
    "replaced call in a chain": Case(lambda: chain(doubled(dense())), 0.9, "replaced"),
    "replaced call of a chain": Case(lambda: doubled(chain(dense())), 0.9, "replaced"),
    "replaced parameters": Case(lambda: doubled(branch(), "function_parameters"), 0.9, "replaced"),
    "replaced parameters of a part": Case(
        lambda: (lambda b: [doubled(p, "function_parameters") for p in b.parts] and b)(branch()),
        0.9,
        "replaced",
    ),
    "replaced norm bound": Case(
        lambda: replaced(dense(), "norm_bound", lambda: 0.5), 0.5, "replaced"
    ),
    "replaced bound of a branch": Case(
        lambda: replaced(branch(), "lipschitz_bound", lambda: 0.5), 0.5, "replaced"
    ),
    "replaced weights of a concatenation": Case(doctored, 0.9, "replaced"),
    "replaced call of a Keras layer": Case(
        lambda: chain(dense(), doubled(keras.layers.Identity(dtype="float64"))), 0.9, "replaced"
    ),
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
    "block in a branch": Case(lambda: chain(dense(), chain(block())), 0.81),
    "block as a branch": Case(block, 0.9),
    "subclass of a block in a branch": Case(
        lambda: chain(dense(), chain(block(SteepResidual))), 0.81, "SteepResidual"
    ),
    "stated block in a branch": Case(
        lambda: chain(dense(), chain(block(SpokenResidual))), 0.81, "SpokenResidual"
    ),
    "flow in a branch": Case(
        lambda: chain(chain(InvertibleSequential([block(), block()], dtype="float64"))), 0.81
    ),
    "scale in a branch": Case(lambda: chain(dense(), chain(scaled_actnorm(3.0))), 0.9, "actnorm"),
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
    "coeff=None": Case(unconstrained, 0.9),
    "a stale estimate": Case(changed, 0.5),
    "activation of a branch of one layer": Case(lambda: dense(activation="sigmoid"), 0.2),
}


# --- invertible layers: the inverse is steeper than it looks ---


def scaled_actnorm(scale, kind=ActNorm):
    layer = kind(dtype="float64", name="actnorm")
    layer.build((None, SIZE))
    layer.log_scale.assign(np.full(SIZE, np.log(scale)))
    return layer


class OwnActNorm(ActNorm):
    def forward(self, x, training=False):
        return 0.1 * super().forward(x, training)


class OwnSequential(InvertibleSequential):
    def forward(self, x, training=False, context=None):
        return 0.1 * super().forward(x, training, context)


class OwnScales(MultiScale):
    def forward(self, x, training=False, context=None):
        return 0.1 * super().forward(x, training, context)


class OwnSqueeze(Squeeze):
    def forward(self, x, training=False):
        return 0.1 * super().forward(x, training)


class Shrinking(InvertibleLayer):
    """0.1 f(x), with a good f in one attribute."""

    def __init__(self, **attributes):
        super().__init__(dtype="float64")
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x, training=False):
        return 0.1 * x

    def _log_det(self, x, seed, log_det, training):
        raise NotImplementedError

    def _inverse(self, y):
        raise NotImplementedError

    def compute_input_shape(self, output_shape):
        return tuple(output_shape)


class ShrinkingParts(Shrinking):
    def sublayers(self):
        return [self.inner]


def shrinking(value):
    kind = type(
        "Stated", (Shrinking,), {"inverse_lipschitz_bound": lambda self, sublayers=None: value}
    )
    return built(kind())


class OwnFlow(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 0.1 * super().call(x, training=training, mask=mask)

    def forward(self, x):
        return self(x)


class Holder(keras.Model):
    """A model of one's own around a flow."""

    def __init__(self, flow):
        super().__init__(dtype="float64")
        self.flow = flow
        self.build((None, SIZE))

    def call(self, x):
        return 0.1 * self.flow(x)

    forward = call


def full_whitening():
    """Not triangular: the solver finds another x."""
    layer = Whitening(dtype="float64", name="whitening")
    layer.build((None, SIZE))
    layer.matrix.assign(EYE + 0.99 * (np.ones((SIZE, SIZE)) - EYE))
    return layer


def singular_whitening():
    layer = full_whitening()
    layer.matrix.assign(np.diag([1.0, 1.0, 0.0, 1.0]))
    return layer


INVERSES = {
    "forward of ActNorm": Case(lambda: scaled_actnorm(1.0, OwnActNorm), 1.0, "OwnActNorm"),
    "forward of a block": Case(lambda: block(SteepResidual, -1.0), 10.0, "SteepResidual"),
    "forward of a composition": Case(
        lambda: built(OwnSequential([scaled_actnorm(1.0)], dtype="float64")), 1.0, "OwnSequential"
    ),
    "forward of scales": Case(
        lambda: built(OwnScales([scaled_actnorm(1.0)], dtype="float64")), 1.0, "OwnScales"
    ),
    "forward of a squeeze": Case(
        lambda: built(OwnSqueeze(dtype="float64"), (4, 1)), 1.0, "OwnSqueeze", (4, 1)
    ),
    "inside a composition": Case(
        lambda: built(
            InvertibleSequential(
                [
                    scaled_actnorm(1.0),
                    built(OwnSequential([scaled_actnorm(1.0)], dtype="float64")),
                ],
                dtype="float64",
            )
        ),
        1.0,
        "OwnSequential",
    ),
    "replaced forward": Case(
        lambda: replaced(scaled_actnorm(1.0), "forward", lambda x, training=False: 0.1 * x),
        1.0,
        "replaced",
    ),
    "replaced forward of a block": Case(
        lambda: replaced(block(), "forward", lambda x, training=False: 0.01 * x), 10.0, "replaced"
    ),
    "replaced forward of a composition": Case(
        lambda: replaced(
            built(InvertibleSequential([scaled_actnorm(1.0)], dtype="float64")),
            "forward",
            lambda x, training=False: 0.1 * x,
        ),
        1.0,
        "replaced",
    ),
    "flow": Case(lambda: built(Shrinking(flow=scaled_actnorm(1.0))), 1.0, "Shrinking"),
    "layer": Case(lambda: built(Shrinking(layer=scaled_actnorm(1.0))), 1.0, "Shrinking"),
    "sublayers": Case(lambda: built(ShrinkingParts(inner=scaled_actnorm(1.0))), 1.0, "Shrinking"),
    "bound NaN": Case(lambda: shrinking(np.nan), 1.0, "got nan"),
    "bound negative": Case(lambda: shrinking(-1.0), 1.0, "got -1.0"),
    "bound a string": Case(lambda: shrinking("1"), 1.0, "got '1'"),
    "a chain of one's own": Case(lambda: chain(scaled_actnorm(1.0), kind=OwnFlow), 1.0, "OwnFlow"),
    "a model of one's own": Case(lambda: Holder(scaled_actnorm(1.0)), 1.0, "Holder"),
    "whitening that is not triangular": Case(full_whitening, 10.0),
    "whitening that is singular": Case(singular_whitening, 10.0),
}


def other_size():
    """A branch built for small images in a block of large ones."""
    inner = SpectralBranch(kernel_sizes=(3,), input_activation=False, dtype="float64")
    inner.build((None, 2, 2, 1))
    (part,) = inner.parts
    part.kernel.assign(tf.ones_like(part.kernel))
    part.converge_spectral_state()
    return inner
