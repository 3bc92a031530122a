"""Invertible layers and models whose inverse is steeper than it looks."""

import keras
import numpy as np

from tests.library.certificate.hostile_branches import SteepResidual
from tests.library.certificate.parts import (
    EYE,
    SIZE,
    Case,
    block,
    built,
    chain,
    replaced,
    scaled_actnorm,
)
from tf_iresnet.layers import (
    ActNorm,
    InvertibleLayer,
    InvertibleSequential,
    MultiScale,
    Squeeze,
    Whitening,
)


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
