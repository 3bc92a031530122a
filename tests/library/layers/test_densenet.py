"""Concatenated LipSwish and dense layers: constants against dense Jacobians, and learning."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.reference import difference, jacobians
from tests.library.registry import randomize
from tf_iresnet import certify, rescale
from tf_iresnet.layers import (
    CLipSwish,
    DenseNetBranch,
    InvertibleResidual,
    SpectralBranch,
    SpectralDense,
)
from tf_iresnet.layers.densenet import ConcatenatedLayer
from tf_iresnet.log_det import Exact


def clipswish(x, beta):
    """The activation's definition, in numpy."""
    slope = np.log1p(np.exp(beta))
    halves = [z / (1 + np.exp(-slope * z)) / 1.1 for z in (x, -x)]
    return np.stack(halves, -1) / 1.004


@pytest.mark.parametrize("beta", [-5.0, -1.0, 0.5, 4.0])
def test_clipswish_is_1_lipschitz_and_no_less(beta):
    """Neither a constant below the truth, nor one that leaves room."""
    z = np.linspace(-30.0, 30.0, 20_001)  # of slope x, on which alone the derivative depends
    x = z / np.log1p(np.exp(beta))
    step = 1e-6 * np.maximum(1.0, np.abs(x))[:, None]
    rise = (clipswish(x + step[:, 0], beta) - clipswish(x - step[:, 0], beta)) / (2 * step)
    norms = np.linalg.norm(rise, axis=1)
    layer = CLipSwish()
    layer.build((None, 1))
    assert 0.9999 < norms.max() < 0.99998 < layer.lipschitz_bound() == 1.0
    assert norms.min() > 0.64  # at 0 both halves pass 1/2: the gradient is never lost


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipswish_is_its_definition(dtype):
    layer = CLipSwish(dtype=dtype)
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(dtype) * 5
    y = layer(x)
    layer.beta.assign(1.3)
    y = layer(x)
    assert y.dtype == dtype
    assert y.shape == layer.compute_output_shape(x.shape) == (4, 3, 4)
    wanted = np.moveaxis(clipswish(x.astype("float64"), 1.3), -1, -2).reshape(4, 3, 4)
    np.testing.assert_allclose(y, wanted, atol=3e-6 if dtype == "float32" else 1e-14)


def test_clipswish_far_out():
    layer = CLipSwish()
    far = np.array([[-1e25, -1e6, 1e6, 1e25]], "float32")
    y = layer(far).numpy()
    positive = np.abs(far) / (1.1 * 1.004)
    np.testing.assert_allclose(y[0, :4], np.where(far > 0, positive, 0)[0], rtol=1e-5)
    np.testing.assert_allclose(y[0, 4:], np.where(far < 0, positive, 0)[0], rtol=1e-5)


def test_clipswish_doubles_what_the_next_linear_layer_reads():
    branch = SpectralBranch(hidden=6, kernel_sizes=(3, 1, 3), activation="clipswish")
    branch.build((None, 4, 4, 2))
    shapes = [tuple(part.kernel.shape) for part in branch.parts[1::2]]
    assert shapes == [(3, 3, 4, 6), (1, 1, 12, 6), (3, 3, 12, 2)]


def made(event, seed=0, dtype="float64", **arguments):
    keras.utils.set_random_seed(seed)
    arguments = {"growth": 4, "depth": 2, "coeff": 0.9, **arguments}
    block = InvertibleResidual(DenseNetBranch(**arguments, dtype=dtype), dtype=dtype)
    block.build((None, *event))
    randomize(block, seed)
    return block


def norms_at(block, count=8, spread=3.0, **given):
    """Largest singular values of the branch's dense Jacobians at random points."""
    x = spread * np.random.default_rng(7).standard_normal((count, *block._event_shape))
    branch = lambda z: block.forward(z, **given) - z  # noqa: E731
    return np.linalg.svd(jacobians(branch, x), compute_uv=False)[:, 0]


@pytest.mark.parametrize(
    ("event", "arguments", "raw"),
    [
        ((4,), {}, None),
        ((4,), {"depth": 1, "growth": 16, "coeff": 0.5}, (-9.0, 9.0)),
        ((3,), {"activation": "elu", "depth": 3, "growth": 3}, None),
        ((2, 2, 2), {"activation": "lipswish"}, (9.0, -9.0)),
        ((3, 2), {"normalization": "bound"}, (-9.0, 9.0)),
    ],
)
def test_the_bound_is_never_below_the_dense_norm(event, arguments, raw):
    block = made(event, **arguments)
    for layer in block.branch.parts[:-1]:
        if raw is not None:
            layer.raw_weights.assign(raw)
    bound, coeff = block.lipschitz_bound(), block.branch.coeff
    norms = norms_at(block)
    assert norms.max() <= bound * (1 + 1e-12)
    assert norms.max() > 0.1 * bound
    assert bound <= coeff * (1 + 1e-4)
    if block.branch.normalization == "power_iteration":
        assert block.branch.lipschitz_estimate() == pytest.approx(bound, rel=1e-4)


def test_the_bound_is_attained():
    """By scaled isometries and an activation without a bend, at any of the learned weights."""
    block = made((2,), depth=1, growth=2, activation="elu", coeff=0.8)
    dense, last = block.branch.parts
    dense.raw_weights.assign([0.3, -0.9])
    dense.linear.kernel.assign(0.6 * np.eye(2))
    dense.linear.bias.assign([50.0, 50.0])  # where elu is the identity
    w = np.log1p(np.exp([0.3, -0.9]))
    w /= np.linalg.norm(w)
    # The best direction for [w_1 I, 0.6 w_2 I]: its own transpose, scaled to the norm 0.5.
    last.kernel.assign(
        0.5 * np.vstack([w[0] * np.eye(2), 0.6 * w[1] * np.eye(2)]) / math.hypot(w[0], 0.6 * w[1])
    )
    block.converge_spectral_state()
    truth = 0.5 * math.hypot(w[0], 0.6 * w[1])
    np.testing.assert_allclose(norms_at(block, spread=1.0).max(), truth, rtol=1e-12)
    assert truth <= block.lipschitz_bound() < truth * (1 + 1e-10)


def test_the_bound_holds_for_weights_cast_to_half_precision():
    rng = np.random.default_rng(3)
    layer = made((4,), dtype="mixed_bfloat16").branch.parts[0]
    raised = 0
    for _ in range(20):
        layer.raw_weights.assign(rng.uniform(-2, 2, 2))
        inner = layer.linear.lipschitz_bound()
        exact, cast = (
            np.asarray(tf.cast(tf.cast(layer.weights_of_parts(), d), tf.float64))
            for d in ("float32", "bfloat16")
        )
        stored, rounded = (math.hypot(w[0], inner * w[1]) for w in (exact, cast))
        assert max(stored, rounded) <= layer.lipschitz_bound() <= max(stored, rounded) * (1 + 1e-12)
        raised += rounded > stored
    assert 0 < raised < 20


def test_the_weights_of_a_concatenation():
    layer = made((4,)).branch.parts[0]
    for raw in ([0.0, 0.0], [3.0, -2.0], [-20.0, 1.0]):
        layer.raw_weights.assign(raw)
        w = layer.weights_of_parts().numpy()
        positive = np.log1p(np.exp(raw))
        np.testing.assert_allclose(w, positive / np.linalg.norm(positive), rtol=1e-12)
        assert (w > 0).all()
    fresh = ConcatenatedLayer(SpectralDense(3), CLipSwish())
    fresh.build((None, 4))
    np.testing.assert_allclose(fresh.weights_of_parts(), [np.sqrt(0.5)] * 2, rtol=1e-6)


def test_each_dense_layer_appends_its_growth():
    branch = DenseNetBranch(growth=6, depth=3)
    branch.build((None, 5, 5, 2))
    shapes = [tuple(part.linear.kernel.shape) for part in branch.parts[:-1]]
    assert shapes == [(3, 3, 2, 3), (3, 3, 8, 3), (3, 3, 14, 3)]
    assert tuple(branch.parts[-1].kernel.shape) == (1, 1, 20, 2)
    plain = DenseNetBranch(growth=5, depth=1, activation="elu")
    plain.build((None, 3))
    assert tuple(plain.parts[0].linear.kernel.shape) == (3, 5)


def test_the_branch_is_its_formula():
    block = made((3,), growth=4, depth=2)
    x = np.random.default_rng(0).standard_normal((5, 3))
    h = x
    for part in block.branch.parts[:-1]:
        kernel, bias = part.linear.normalized_kernel().numpy(), part.linear.bias.numpy()
        new = clipswish(h @ kernel + bias, float(part.activation.beta))
        w = np.log1p(np.exp(part.raw_weights.numpy()))
        w /= np.linalg.norm(w)
        h = np.concatenate([w[0] * h, w[1] * new[..., 0], w[1] * new[..., 1]], -1)
    last = block.branch.parts[-1]
    y = x + h @ last.normalized_kernel().numpy() + last.bias.numpy()
    np.testing.assert_allclose(block(x), y, atol=1e-13)
    np.testing.assert_allclose(x + block.branch(x), y, atol=1e-13)


@pytest.mark.parametrize("below", [0.7, 0.05])
def test_rescaling_finds_the_factor_of_a_concatenated_branch(below):
    block = made((4,), depth=3)
    before = [part.normalized_kernel().numpy() for part in block.spectral_layers()]
    certificate, scaled = (result := rescale(block, below)).certificate, result.scaled
    assert certificate.invertible
    assert 0.99 * below < certificate.contraction < below
    factors = {entry.factor for entry in scaled}
    assert len(scaled) == 4
    assert len({entry.name for entry in scaled}) == 4
    (factor,) = factors
    for part, kernel in zip(block.spectral_layers(), before, strict=True):
        np.testing.assert_allclose(part.kernel, factor * kernel, rtol=1e-10)
    assert norms_at(block).max() <= certificate.contraction


def test_a_bound_that_ignores_the_kernels_cannot_be_rescaled():
    class Stubborn(keras.layers.Layer):
        def build(self, input_shape):
            self.inner = SpectralDense(2)
            self.inner.build(input_shape)

        def lipschitz_bound(self):
            return 0.8

    branch = Stubborn()
    branch.build((None, 2))
    with pytest.raises(ValueError, match=r"the bound 0.8 of .* does not fall with its kernels"):
        rescale(branch, below=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"growth": 0}, "growth must be an integer of at least 1, got 0"),
        ({"growth": 3}, "growth must be even for activation='clipswish'.* got 3"),
        ({"depth": 1.5}, "depth must be an integer of at least 1, got 1.5"),
        ({"kernel_size": True}, "kernel_size must be .* got True"),
        ({"activation": "relu"}, "activation must be one of .* got 'relu'"),
        ({"coeff": 1.0}, r"coeff must lie in \(0, 1\)"),
        ({"normalization": "none"}, "normalization must be one of"),
        ({"context_size": 0}, "context_size must be an integer of at least 1.* got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenseNetBranch(**arguments)


def test_a_flow_of_dense_branches_learns(tmp_path):
    model = small.flow(
        branch="densenet", blocks=(1,), growth=6, depth=2, activation="clipswish", coeff=0.9
    )
    x = small.pixels(32)
    small.train(model, x, steps=1)
    before = float(tf.reduce_mean(model.bits_per_dim(x, seed=0)))
    small.train(model, x, steps=6)
    assert float(tf.reduce_mean(model.bits_per_dim(x, seed=0))) < before - 0.1
    certificate = certify(model)
    assert certificate.invertible
    assert certificate.contraction <= 0.9
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x, seed=1), model.log_prob(x, seed=1))


def test_a_flow_needs_a_known_branch():
    with pytest.raises(ValueError, match=r"branch must be one of .*'densenet'.* got 'dense'"):
        small.flow(branch="dense")


def test_the_concatenations_weights_are_trained_by_the_exact_gradient():
    block = made((2,), depth=1)
    weights, x = block.branch.parts[0].raw_weights, np.random.default_rng(0).normal(size=(3, 2))

    def value(raw):
        weights.assign(np.ravel(raw))
        y = jacobians(block.forward, x)
        return [np.linalg.slogdet(y)[1].sum()]

    at = weights.numpy()
    truth = difference(value, at, 1e-5)[0]
    weights.assign(at)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(block.forward_and_log_det(x, log_det=Exact())[1])
    np.testing.assert_allclose(tape.gradient(total, weights.value), truth, rtol=1e-6, atol=1e-8)
