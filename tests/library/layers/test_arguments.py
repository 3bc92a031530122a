"""Wrong arguments and inputs: each error names the argument, the value and what to do."""

import keras
import numpy as np
import pytest

from tf_iresnet.layers import (
    ActNorm,
    InjectivePadding,
    InvertibleResidual,
    InvertibleSequential,
    MaxMin,
    MultiScale,
    SmoothActivation,
    SpectralBranch,
    SpectralConv1D,
    SpectralConv2D,
    SpectralConv3D,
    SpectralDense,
    Squeeze,
)

pytestmark = pytest.mark.quick

SPECTRAL = {
    "SpectralDense": lambda **o: SpectralDense(3, **o),
    "SpectralConv2D": lambda **o: SpectralConv2D(3, 3, **o),
    "InvertibleResidual": lambda **o: InvertibleResidual(**o),
}


@pytest.mark.parametrize("make", SPECTRAL.values(), ids=SPECTRAL)
@pytest.mark.parametrize("coeff", [0.0, 1.0, -0.5, 1.5, float("nan"), True, "0.9"])
def test_coeff_outside_the_open_interval(make, coeff):
    with pytest.raises(ValueError, match=r"coeff must lie in \(0, 1\), or be None.*got"):
        make(coeff=coeff)


WRONG = {
    "power_iterations": (lambda: SpectralDense(3, power_iterations=-1), "at least 1, got -1"),
    "power_iterations fraction": (
        lambda: SpectralDense(3, power_iterations=1.5),
        "must be an integer .* got 1.5",
    ),
    "units": (lambda: SpectralDense(0), "units must be an integer of at least 1, got 0"),
    "filters": (lambda: SpectralConv1D(2.5, 3), "filters must be .* got 2.5"),
    "kernel_size": (lambda: SpectralConv2D(3, (3, 3, 3)), r"or 2 of them, got \(3, 3, 3\)"),
    "kernel_size zero": (lambda: SpectralConv3D(3, 0), "kernel_size must be .* got 0"),
    "padding": (lambda: SpectralConv2D(3, 3, padding="causal"), "one of .*same.* got 'causal'"),
    "activation": (lambda: InvertibleResidual(activation="relu"), "one of .*elu.* got 'relu'"),
    "function_name": (lambda: SmoothActivation("relu"), "function_name .*elu.* got 'relu'"),
    "hidden": (lambda: InvertibleResidual(hidden=0), "hidden must be .* at least 1, got 0"),
    "kernel_sizes": (
        lambda: SpectralBranch(kernel_sizes=()),
        r"kernel_sizes must hold .* got \(\)",
    ),
    "factor": (lambda: Squeeze(1), "factor must be an integer of at least 2, got 1"),
    "channels": (lambda: InjectivePadding(0), "channels must be .* at least 1, got 0"),
    "layers": (lambda: InvertibleSequential([]), "at least one invertible layer, got none"),
    "layers type": (
        lambda: InvertibleSequential([ActNorm(), keras.layers.Dense(2)]),
        "layers must be invertible layers .* got Dense",
    ),
    "scales": (lambda: MultiScale([]), "scales must hold at least one"),
    "scales type": (lambda: MultiScale([keras.layers.Dense(2)]), "scales must be .* got Dense"),
    "branch": (
        lambda: InvertibleResidual(keras.layers.Dense(2)),
        r"branch Dense has no lipschitz_bound\(\).*pass coeff=None",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


INPUTS = {
    "dense rank": (SpectralDense(3), (4,), r"shape \[batch, \.\.\., features\].*\(4,\)"),
    "conv rank": (SpectralConv2D(3, 3, name="c"), (2, 5, 3), "c needs inputs with 2 fixed spatial"),
    "conv unknown size": (
        SpectralConv2D(3, 3),
        (None, None, 5, 3),
        "since the norm depends on the size, got",
    ),
    "valid leaves nothing": (
        SpectralConv1D(3, 5, padding="valid"),
        (None, 4, 2),
        'use padding="same"',
    ),
    "residual unknown size": (
        InvertibleResidual(),
        (None, None, 4, 3),
        "fixed sizes after the batch, got",
    ),
    "residual rank": (InvertibleResidual(), (None,), "fixed sizes after the batch"),
    "residual rank 6": (InvertibleResidual(), (None, 2, 2, 2, 2, 2), "2 to 5 axes"),
    "actnorm unknown": (ActNorm(), (None, None), "fixed sizes"),
    "maxmin odd": (MaxMin(), (None, 3), "even number of channels"),
    "squeeze odd": (
        Squeeze(name="s"),
        (None, 5, 4, 1),
        r"s: spatial sizes \(5, 4\).*factor 2; pad",
    ),
    "squeeze rank": (Squeeze(), (None, 4), r"\[batch, spatial sizes, channels\]"),
    "multi-scale odd": (
        MultiScale([ActNorm(), ActNorm()], name="m"),
        (None, 2, 2, 3),
        r"m: scale 0 ends with 3 channels.*factor_out=False",
    ),
    "branch shape": (
        InvertibleResidual(SpectralDense(3, name="b"), name="r"),
        (None, 2),
        "branch of r maps .* needs the same shape",
    ),
}


@pytest.mark.parametrize(("layer", "shape", "message"), INPUTS.values(), ids=INPUTS)
def test_wrong_input_shapes(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


def test_other_shapes_than_the_built_one():
    conv = SpectralConv2D(2, 3)
    conv(np.zeros((1, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match="expected axis"):
        conv(np.zeros((1, 5, 4, 1), "float32"))
    with pytest.raises(ValueError, match="6 channels of an output are no multiple of 4"):
        Squeeze().compute_input_shape((None, 2, 2, 6))
    with pytest.raises(ValueError, match="adds 2 channels"):
        InjectivePadding(2).compute_input_shape((None, 2))


def test_a_branch_without_a_bound_is_taken_without_proof():
    block = InvertibleResidual(keras.layers.Dense(2), coeff=None)
    x = np.ones((1, 2), "float32")
    assert block(x).shape == (1, 2)
    block.branch.kernel.assign(0.1 * np.eye(2))
    np.testing.assert_allclose(block.inverse(1.1 * x), x, rtol=1e-5)
