"""Branches that look tamer than they are: their classes or their instances compute otherwise.

Each comes with what a reader of its attributes would believe, and computes something steeper.
"""

import keras
import numpy as np

from tests.library.certificate.parts import (
    EYE,
    SIZE,
    Case,
    Own,
    block,
    branch,
    built,
    chain,
    dense,
    densenet,
    doubled,
    replaced,
    scaled_actnorm,
    set_to,
)
from tf_iresnet.layers import (
    DenseNetBranch,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    SpectralBranch,
    SpectralDense,
)

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


def doctored():
    layer = densenet()
    layer.parts[0].raw_weights.assign([9.0, -9.0])
    true = layer.parts[0].weights_of_parts
    layer.parts[0].weights_of_parts = lambda: 4 * true()
    return layer


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
    "coeff=None": Case(unconstrained, 0.9),
    "a stale estimate": Case(changed, 0.5),
}
