"""Weights that are not finite, and arithmetic in half precision: nothing is proven of them."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import registry, small_models
from tests.library.certificate import hostile_keras, parts
from tf_iresnet import certify, rescale
from tf_iresnet.export import export_saved_model
from tf_iresnet.fixed_point import ConvergenceError
from tf_iresnet.layers import Conditioned, InvertibleResidual

MODELS = {
    "flow": lambda: small_models.flow(whitening=True, branch="densenet", growth=4, depth=1),
    "marginal": lambda: small_models.flow(preprocessing="marginal", blocks=(1,)),
    "classifier": small_models.classifier,
    "hybrid": small_models.hybrid,
    "conditional": lambda: small_models.flow((3,), levels=None, blocks=(1,), context_size=2),
    "own branch": lambda: registry.make("own branch", "float32"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_that_is_not_finite_proves_nothing(name):
    model = MODELS[name]()
    assert certify(model).invertible
    weights = [v for v in model.variables if "float" in keras.backend.standardize_dtype(v.dtype)]
    assert len(weights) >= 2
    for index, weight in enumerate(weights):
        value = (np.nan, np.inf, -np.inf)[index % 3]
        held = "holds NaN" if np.isnan(value) else "holds infinite values"
        before, nan_where_failed = weight.numpy(), np.array(weight.numpy())
        nan_where_failed.flat[-1] = value
        weight.assign(nan_where_failed)
        certificate = certify(model)
        assert not certificate.invertible
        assert certificate.not_proven == (f"{weight.path} {held}",)
        assert f"Not proven: {weight.path} {held}." in str(certificate)
        assert json.loads(certificate.to_json())["not_proven"] == [f"{weight.path} {held}"]
        np.testing.assert_array_equal(weight, nan_where_failed)
        weight.assign(before)
    assert certify(model).invertible


def test_a_block_with_a_weight_that_is_not_finite_is_bounded_by_nothing():
    block = registry.make("dense", "float64")
    block.branch.parts[1].bias.assign(np.full(7, np.nan))
    assert block.lipschitz_bound() == block.inverse_lipschitz_bound() == math.inf
    with pytest.raises(ValueError, match=r"cannot be rescaled: .*bias holds NaN"):
        rescale(block, below=0.5)
    flow = registry.make("sequential")
    flow.layers[1].bias.assign(flow.layers[1].bias * np.nan)
    assert flow.inverse_lipschitz_bound() == math.inf
    conditioned = Conditioned(InvertibleResidual(hidden=2, context_size=1), [np.nan])
    conditioned.build((None, 2))
    assert certify(conditioned).not_proven == (
        f"{conditioned.name}: its inverse has no known Lipschitz constant",
    )


def test_an_inverse_that_fails_says_that_no_bound_is_known():
    block = InvertibleResidual(hostile_keras.keras_dense(), coeff=None, dtype="float64")
    block.build((None, parts.SIZE))
    with pytest.raises(ConvergenceError, match=r"Dense 'dense.*' has no known Lipschitz constant"):
        block.inverse(np.ones((1, parts.SIZE)))


def test_what_is_exported_says_so(tmp_path):
    model = small_models.flow((2,), levels=None, blocks=(1,), hidden=4)
    (bias,) = (v for v in model.variables if v.path.endswith("linear_1/bias"))
    bias.assign(bias * np.nan)
    export_saved_model(model, tmp_path / "1")
    content = json.loads((tmp_path / "1" / "certificate.json").read_text())
    assert content["invertible"] is False
    assert content["contraction"] is None
    assert content["not_proven"] == [f"{bias.path} holds NaN"]


# --- arithmetic ---


def test_a_certificate_names_its_arithmetic():
    exact = "exact arithmetic on the weights as stored in float{}, in inference; the rounding of "
    for name, dtype, bits in (("dense", "float32", 32), ("dense", "float64", 64)):
        certificate = certify(registry.make(name, dtype))
        assert certificate.arithmetic.startswith(exact.format(bits))
        assert "training" not in certificate.arithmetic
        assert f"Arithmetic: {certificate.arithmetic}." in str(certificate)
        assert json.loads(certificate.to_json())["arithmetic"] == certificate.arithmetic


def rises(function, x, distance):
    """The largest slope between neighbours at a distance, each difference in float64."""
    y = x + distance * np.random.default_rng(1).standard_normal(x.shape).astype("float32")
    fx, fy = (np.asarray(function(z), np.float64) for z in (x, y))
    gap = np.asarray(y, np.float64) - x
    return (np.linalg.norm(fy - fx, axis=1) / np.linalg.norm(gap, axis=1)).max()


def test_a_block_that_trains_in_bfloat16_claims_nothing_of_training():
    keras.utils.set_random_seed(0)
    block = InvertibleResidual(
        hidden=8, kernel_sizes=(1, 1), coeff=0.97, dtype="mixed_bfloat16", input_activation=False
    )
    block.build((None, 4))
    for layer in block.spectral_layers():
        layer.kernel.assign(5.0 * np.eye(*layer.kernel.shape))
        layer.bias.assign(np.full(layer.bias.shape, 3.0))
    block.converge_spectral_state()
    certificate = certify(block)
    assert certificate.invertible
    assert "nothing is claimed of training in bfloat16" in certificate.arithmetic
    x = 2.0 * np.random.default_rng(0).standard_normal((4096, 4)).astype("float32")
    trained, inferred = (
        rises(lambda z, t=t: block.forward(tf.constant(z), training=t) - z, x, 1e-2)
        for t in (True, False)
    )
    assert inferred <= certificate.contraction * (1 + 1e-3)
    assert trained > certificate.contraction


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_branch_that_computes_in_half_precision_in_inference_is_not_proven(policy):
    class Mine(keras.layers.Layer):
        def call(self, x):
            return 0.95 * tf.sin(x)

        def compute_output_shape(self, input_shape):
            return input_shape

        def lipschitz_bound(self):
            return 0.95

    block = InvertibleResidual(Mine(dtype=policy), name="mine")
    block.build((None, 4))
    x = np.random.default_rng(0).standard_normal((4096, 4)).astype("float32")
    assert rises(lambda z: block.forward(tf.constant(z)) - z, x, 1e-3) > 0.96
    certificate = certify(block)
    assert not certificate.invertible
    assert certificate.amplification == math.inf
    (doubt,) = certificate.not_proven
    assert doubt.startswith(f"mine: its branch computes in {policy[6:]} in inference too")
    full = InvertibleResidual(Mine(dtype="float32"), dtype=policy)
    full.build((None, 4))
    assert certify(full).invertible
