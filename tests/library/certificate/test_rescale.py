"""Rescaling: blocks that are proven afterwards, or left as they were."""

import json
import math

import numpy as np
import pytest

from tests.library import registry, small_models
from tests.library.certificate import parts
from tf_iresnet import certify, rescale
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential, SpectralBranch


@pytest.mark.quick
def test_rescaling_proves_what_was_not():
    block = parts.misled()
    result = rescale(block, below=0.95)
    certificate, scaled = result.certificate, result.scaled
    assert certificate.to_dict() == certify(block).to_dict()
    assert certificate.invertible
    assert 0.6 < certificate.contraction < 0.95
    factor = math.sqrt(0.95 * (1 - 1e-4) / 1.2)
    assert [entry.name for entry in scaled] == ["misled/linear_0", "misled/linear_1"]
    np.testing.assert_allclose([entry.factor for entry in scaled], factor, rtol=1e-6)
    first = block.branch._linear[0]
    np.testing.assert_allclose(np.diag(first.kernel), factor * np.array([1.5, 0.1, 0.1]), rtol=1e-6)
    # It stays proven when the power iteration finds the truth.
    block.converge_spectral_state()
    block.update_spectral_state(50)
    assert certify(block).contraction < 0.95
    assert rescale(block, below=0.95).scaled == ()
    assert "Scaled: misled, linear_0 by 0.88" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["scaled"][0]["factor"] == scaled[0].factor


def test_a_scaled_block_is_the_normalised_one_scaled():
    """With the estimate at work, too: what is scaled is the kernel in use."""
    block = InvertibleResidual(hidden=5, coeff=0.9, name="block")
    block.build((None, 4))
    for part in block.branch._linear:
        part.kernel.assign(3.0 * part.kernel)
    block.converge_spectral_state()
    before = [part.normalized_kernel().numpy() for part in block.branch._linear]
    result = rescale(block, below=0.3)
    for part, kernel, scaled in zip(block.branch._linear, before, result.scaled, strict=True):
        np.testing.assert_allclose(part.normalized_kernel(), scaled.factor * kernel, rtol=1e-5)
    assert 0.299 < result.certificate.contraction < 0.3


def test_a_branch_that_can_not_be_scaled_is_named():
    class Loose(registry.SineBranch):
        def lipschitz_bound(self):
            return 1.5

    block = InvertibleResidual(Loose(), name="own")
    block.build((None, 3))
    assert certify(block).contraction == 1.5
    with pytest.raises(ValueError, match="own has no spectral layer"):
        rescale(block, below=0.9)


def test_a_rescaling_that_fails_changes_nothing():
    """Neither when a block cannot be scaled, nor when one turns out not to follow its kernels."""

    class Stubborn(SpectralBranch):
        def call(self, x, **arguments):
            return super().call(x, **arguments)

        def lipschitz_bound(self):
            return max(0.8, super().lipschitz_bound())

    for last in (
        InvertibleResidual(registry.SineBranch(dtype="float64"), dtype="float64"),
        InvertibleResidual(parts.branch(Stubborn), dtype="float64"),
    ):
        flow = InvertibleSequential([parts.block(), last], dtype="float64")
        flow.build((None, parts.SIZE))
        before = small_models.values(flow.variables)
        with pytest.raises(ValueError, match=r"no spectral layer|does not fall with its"):
            rescale(flow, below=0.4)
        small_models.assert_same(before, small_models.values(flow.variables))
