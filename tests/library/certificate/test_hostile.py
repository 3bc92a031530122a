"""Nothing is talked into a proof: each claim is at least what is measured, or there is none."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.certificate import hostile_branches, hostile_inverses, hostile_keras
from tests.library.reference import rows_at_once, steepest
from tf_iresnet import certify
from tf_iresnet.layers import (
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    SpectralBranch,
    SpectralConv2D,
)
from tf_iresnet.layers.activations import activation_bound

BRANCHES = hostile_branches.BRANCHES | hostile_keras.BRANCHES


def asked(make):
    """What `make` claims and an empty text, or None and the text of its refusal."""
    try:
        return make(), ""
    except ValueError as error:
        return None, str(error)


def check(make, truth, word, other="?"):
    """A claim is no less than the truth; a refusal is due, and holds the word."""
    bound, refusal = asked(make)
    assert (bound is None) == bool(word), refusal
    assert word in refusal or other in refusal
    assert bound is None or bound >= truth * (1 - 1e-9)


@pytest.mark.parametrize("name", BRANCHES)
def test_no_branch_is_talked_into_a_proof(name):
    case = BRANCHES[name]
    layer = case.make()
    truth = steepest(layer, case.event)
    assert truth > case.believed * (1 + 1e-6)
    chain = keras.Sequential([keras.Input(case.event, dtype="float64"), layer])
    each = keras.layers.TimeDistributed(layer, dtype="float64")
    each.build((None, 2, *case.event))
    # Whoever asks; of a block alone, though, a certificate is about the branch in it.
    for front in (each,) if isinstance(layer, InvertibleResidual) else (layer, chain, each):
        check(lambda front=front: certify(front).contraction, truth, case.word)


@pytest.mark.parametrize("name", BRANCHES)
def test_no_block_is_talked_into_a_proof(name):
    """A block may take a branch's function where others call it: what it computes is measured."""
    case = BRANCHES[name]
    layer = case.make()
    block = InvertibleResidual(layer, coeff=None, dtype="float64")
    block.build((None, *case.event))
    truth = 0.0 if case.word else steepest(lambda x: block.forward(x) - x, case.event)
    check(lambda: certify(block).contraction, truth, case.word)
    check(block.lipschitz_bound, truth, case.word)
    assert asked(lambda: certify(block).invertible)[0] in (None, False)  # coeff=None

    def in_a_flow():
        constrained = InvertibleResidual(layer, coeff=0.9, dtype="float64")
        flow = InvertibleSequential([constrained], dtype="float64")
        flow.build((None, *case.event))
        certificate = certify(flow)
        assert certificate.invertible == (certificate.contraction < 1.0)
        return certificate.contraction

    # Some have no method of this name, and are refused when the block is made.
    missing = "has no lipschitz_bound()"
    word = case.word or ("" if hasattr(type(layer), "lipschitz_bound") else missing)
    check(in_a_flow, truth, word, missing)


@pytest.mark.parametrize("name", hostile_inverses.INVERSES)
def test_no_inverse_is_talked_into_a_proof(name):
    case = hostile_inverses.INVERSES[name]
    layer = case.make()
    x = np.random.default_rng(0).standard_normal((4, *case.event))
    least = np.linalg.svd(rows_at_once(layer.forward, x), compute_uv=False)[:, -1].min()
    truth = math.inf if least == 0 else 1 / least
    assert truth > case.believed * (1 - 1e-6)
    fronts = [lambda: certify(layer)]
    if isinstance(layer, InvertibleLayer):
        for kind in (InvertibleSequential, MultiScale):
            stack = kind([layer], dtype="float64")
            stack.build((None, *case.event))
            fronts += [lambda stack=stack: certify(stack), stack.inverse_lipschitz_bound]
    for front in fronts:
        found, refusal = asked(front)
        assert (found is None) == bool(case.word), refusal
        assert case.word in refusal
        if found is not None:
            bound = found if isinstance(found, float) else found.amplification
            assert bound >= truth * (1 - 1e-9)
            assert isinstance(found, float) or found.invertible == math.isfinite(bound)


def built_for_small_images():
    """A branch that is built for images of two by two pixels."""
    inner = SpectralBranch(kernel_sizes=(3,), input_activation=False, dtype="float64")
    inner.build((None, 2, 2, 1))
    (part,) = inner.parts
    part.kernel.assign(tf.ones_like(part.kernel))
    part.converge_spectral_state()
    return inner


def test_a_branch_is_certified_at_the_size_at_which_it_works():
    """A convolution of large images has a larger norm than the same one of small images."""
    branch = built_for_small_images()
    assert branch.lipschitz_bound() < 0.901
    kernel, layer = branch.parts[0].kernel.numpy(), SpectralConv2D(1, 3, dtype="float64")
    layer.coeff = None
    layer.build((None, 8, 8, 1))
    layer.kernel.assign(branch.parts[0].normalized_kernel())
    truth = steepest(layer, (8, 8, 1))
    assert truth > 1.5
    block = InvertibleResidual(branch, dtype="float64", name="large")
    with pytest.raises(ValueError, match="branch of large was built for inputs of other sizes"):
        block.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match="expected axis"):
        keras.Sequential([keras.Input((8, 8, 1)), branch])
    np.testing.assert_array_equal(branch.parts[0].kernel, kernel)


def test_keras_functions_are_known_themselves_not_by_name(monkeypatch):
    monkeypatch.setattr(keras.activations, "tanh", hostile_keras.tanh)
    with pytest.raises(ValueError, match="activation 'tanh' has no known Lipschitz constant"):
        activation_bound(keras.activations.tanh)
