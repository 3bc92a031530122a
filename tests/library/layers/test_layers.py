"""ActNorm, Squeeze, InjectivePadding, activations and compositions, one by one."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import jacobians
from tf_iresnet.fixed_point import ConvergenceError, Picard
from tf_iresnet.layers import (
    ActNorm,
    InjectivePadding,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MaxMin,
    MultiScale,
    SmoothActivation,
    SpectralBranch,
    Squeeze,
)
from tf_iresnet.log_det import Exact, PowerSeries

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(np.random.get_bit_generator())  # begun anew by each test


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


# --- ActNorm ---


@pytest.mark.parametrize("how", ["adapt", "call", "graph"])
def test_actnorm_standardises_its_first_batch_once(how):
    layer = ActNorm()
    x = normal(50, 3, 2) * [5.0, 0.1] + [100.0, -1.0]
    if how == "adapt":
        layer.adapt(x)
        y = layer(x)
    else:
        layer.build(x.shape)
        call = tf.function(layer) if how == "graph" else layer
        y = call(tf.constant(x, tf.float32), training=True)
    np.testing.assert_allclose(np.mean(y, (0, 1)), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.std(y, (0, 1)), 1.0, rtol=1e-3)
    scale = [v.numpy() for v in layer.variables]
    layer(tf.constant(normal(50, 3, 2)), training=True)
    for variable, value in zip(layer.variables, scale, strict=True):
        np.testing.assert_array_equal(variable, value)
    # ln|det| = pixels * sum of the log-scales, -ln of the standard deviations.
    _, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(log_det, -3 * np.sum(np.log(np.std(x, (0, 1)))), rtol=1e-4)


def test_actnorm_in_inference_is_the_identity_until_initialised():
    layer, x = ActNorm(), normal(4, 3)
    np.testing.assert_array_equal(layer(x), x)
    assert float(layer.initialized) == 0.0
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_actnorm_trains_after_its_initialisation():
    model = keras.Sequential([keras.Input((2,)), ActNorm(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = normal(32, 2) * 4 + 10
    model.fit(x, normal(32, 1), batch_size=8, epochs=1, verbose=0)
    layer = model.layers[0]
    assert float(layer.initialized) == 1.0
    standard = 1 / np.std(x[:8], 0)  # unlike the first batch's: shuffled, and trained since
    assert np.all(np.abs(np.exp(layer.log_scale) / standard - 1) < 1.0)
    assert np.all(np.asarray(layer.bias) < -5)


@pytest.mark.parametrize("kind", ["model.keras", "model.weights.h5", "checkpoint"])
def test_a_restored_actnorm_is_not_initialised_again(kind, tmp_path):
    def make():
        return keras.Sequential([keras.Input((3,)), ActNorm()])

    model, path = make(), str(tmp_path / kind)
    model.layers[0].adapt(normal(20, 3) + 5)
    if kind == "model.keras":
        model.save(path)
        other = keras.saving.load_model(path)
    elif kind == "checkpoint":
        path = tf.train.Checkpoint(layer=model.layers[0]).save(path)
        other = make()
        tf.train.Checkpoint(layer=other.layers[0]).restore(path).assert_consumed()
    else:
        model.save_weights(path)
        other = make()
        other.load_weights(path)
    x = normal(7, 3) * 9
    wanted = model(x)
    np.testing.assert_array_equal(other(x, training=True), wanted)
    np.testing.assert_array_equal(other(x), wanted)


def test_actnorm_keeps_the_scale_of_constant_channels():
    x = np.stack([np.full(9, 7.0), np.zeros(9), RNG.standard_normal(9)], 1).astype("float32")
    layer = ActNorm()
    layer.adapt(x)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y[:, :2], 0.0)
    np.testing.assert_array_equal(layer.log_scale[:2], 0.0)
    np.testing.assert_allclose(np.std(y[:, 2]), 1.0, rtol=1e-5)
    np.testing.assert_allclose(layer.inverse(y), x, atol=1e-6)


def test_actnorm_survives_large_offsets():
    x = (1e4 + normal(4000, 1)).astype("float32")
    layer = ActNorm()
    layer.adapt(x)
    y = layer(x)
    np.testing.assert_allclose(np.std(y), 1.0, rtol=1e-3)


def test_a_composition_adapts_layer_by_layer():
    flow = InvertibleSequential([ActNorm(), InvertibleResidual(hidden=4), ActNorm()])
    x = normal(200, 2) * [3.0, 0.2] + 1
    flow.adapt(x)
    y = flow(x)
    np.testing.assert_allclose(np.mean(y, 0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, 0), 1.0, rtol=1e-4)
    np.testing.assert_array_equal(y, flow(tf.constant(x, tf.float32)))
    scales = MultiScale([flow, ActNorm()], factor_out=False)
    scales.adapt(x * 5)
    np.testing.assert_allclose(np.std(scales(x * 5), 0), 1.0, rtol=1e-3)


# --- Squeeze ---


@pytest.mark.parametrize(("shape", "factor"), [((6, 2), 3), ((4, 6, 3), 2), ((2, 4, 4, 1), 2)])
def test_squeeze_moves_each_block_of_pixels_into_channels(shape, factor):
    x = np.arange(2 * np.prod(shape), dtype="float32").reshape(2, *shape)
    *spatial, channels = shape
    smaller = [size // factor for size in spatial]
    wanted = np.empty((2, *smaller, channels * factor ** len(spatial)), "float32")
    for pixel in itertools.product(*map(range, smaller)):
        corner = [slice(p * factor, (p + 1) * factor) for p in pixel]
        wanted[(slice(None), *pixel)] = x[(slice(None), *corner)].reshape(2, -1)
    layer = Squeeze(factor)
    y = layer(x)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(layer.inverse(wanted), x)
    np.testing.assert_array_equal(layer.forward_and_log_det(x)[1], np.zeros(2))
    if len(spatial) == 2:
        np.testing.assert_array_equal(y, tf.nn.space_to_depth(x, factor))


# --- InjectivePadding ---


def test_padding_appends_zeros_and_drops_them_again():
    layer, x = InjectivePadding(2), normal(3, 4, 5, 1)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y[..., :1], x)
    np.testing.assert_array_equal(y[..., 1:], 0.0)
    np.testing.assert_array_equal(layer.inverse(y), x)
    np.testing.assert_array_equal(layer.dropped_norm(y), np.zeros(3))
    y[1, ..., 1:] = 0.5
    np.testing.assert_allclose(layer.dropped_norm(y), [0, 0.5 * np.sqrt(40), 0], rtol=1e-6)
    np.testing.assert_array_equal(layer.inverse(y), x)


def test_padding_has_no_density():
    with pytest.raises(ValueError, match=r"no log-determinant.*Leave InjectivePadding out"):
        InjectivePadding(2).forward_and_log_det(normal(3, 4))
    flow = InvertibleSequential([InjectivePadding(2), InvertibleResidual(hidden=4)])
    x = normal(3, 4)
    with pytest.raises(ValueError, match="no log-determinant"):
        flow.forward_and_log_det(x)
    np.testing.assert_allclose(flow.inverse(flow(x)), x, atol=1e-5)


# --- activations ---


@pytest.mark.parametrize(
    ("layer", "formula"),
    [
        (SmoothActivation("elu"), lambda x: np.where(x > 0, x, np.expm1(x))),
        (SmoothActivation("softplus"), lambda x: np.log1p(np.exp(x))),
        (SmoothActivation("tanh"), np.tanh),
        # beta starts at 0.5
        (LipSwish(), lambda x: x / (1 + np.exp(-np.log1p(np.exp(0.5)) * x)) / 1.1),
        (MaxMin(), lambda x: np.sort(x.reshape(-1, 2), 1)[:, ::-1].reshape(x.shape)),
    ],
)
def test_activations_follow_their_formula(layer, formula):
    x = np.linspace(-6, 6, 60, dtype="float32").reshape(3, 5, 4)
    x = x + 0.01 * normal(3, 5, 4)
    np.testing.assert_allclose(layer(x), formula(x), rtol=1e-5, atol=1e-6)
    assert layer.lipschitz_bound() == 1.0


@pytest.mark.parametrize("beta", [-5.0, 0.0, 0.5, 3.0, 20.0])
def test_lipswish_is_1_lipschitz_for_every_beta(beta):
    layer = LipSwish(dtype="float64")
    layer.build((None, 1))
    layer.beta.assign(beta)
    x = np.linspace(-40, 40, 200001)[:, None] / np.log1p(np.exp(beta))
    slope = np.diff(layer(x).numpy(), axis=0) / np.diff(x, axis=0)
    assert 0.99 < np.abs(slope).max() < 1.0


def test_maxmin_says_that_it_is_not_for_flows():
    assert "Not for flows" in MaxMin.__doc__


# --- the inverse ---


def diverging(**options):
    """x + g(x) with g(x) = 3 x: no fixed-point iteration inverts it."""
    block = InvertibleResidual(
        kernel_sizes=(1,), coeff=None, input_activation=False, name="steep", **options
    )
    block.build((None, 2))
    block.branch.parts[0].kernel.assign(3 * np.eye(2))
    return block


def test_an_inverse_that_does_not_converge_is_never_silent():
    y = np.array([[1.0, 2.0], [0.0, 0.0]], "float32")
    for layer in (diverging(), InvertibleSequential([ActNorm(), diverging()])):
        layer.build((None, 2))
        with pytest.raises(ConvergenceError) as raised:
            layer.inverse(y)
        for word in ("1 of 2 examples", "residual", "steep", "bounded by 3", "return_result=True"):
            assert word in str(raised.value)
        result = layer.inverse(y, return_result=True)
        assert result.converged.numpy().tolist() == [False, True]
        assert not result.residual[0] < 1  # it overflowed
        x = tf.function(layer.inverse)(y).numpy()
        assert np.isnan(x[0]).all()
        np.testing.assert_array_equal(x[1], 0.0)


def test_too_few_steps_are_reported_with_the_bound():
    # One initialisation in sixty of glorot_uniform contracts so well that two steps suffice.
    keras.utils.set_random_seed(0)
    block = InvertibleResidual(
        hidden=4, kernel_initializer="delta_orthogonal", solver=Picard(max_steps=2)
    )
    with pytest.raises(ConvergenceError, match=r"after 2 steps.*Lipschitz constant of at most 0\."):
        block.inverse(10 * normal(3, 2))


def test_result_adds_up_over_a_composition():
    flow = InvertibleSequential([InvertibleResidual(hidden=8) for _ in range(3)])
    x = normal(4, 3)
    y = flow(x)
    whole, point, steps, worst = flow.inverse(y, return_result=True), y, 0, 0.0
    for block in reversed(flow.layers):
        part = block.inverse(point, return_result=True)
        point, steps = part.x, steps + part.steps.numpy()
        worst = np.maximum(worst, part.residual)
    np.testing.assert_array_equal(whole.x, point)
    np.testing.assert_array_equal(whole.steps, steps)
    np.testing.assert_array_equal(whole.residual, worst)
    np.testing.assert_allclose(whole.x, x, atol=1e-5)


# --- compositions ---


def test_multi_scale_lays_out_the_latents_as_documented():
    first, last = ActNorm(), ActNorm()
    flow = MultiScale([first, last])
    x = normal(3, 2, 2, 4)
    flow.build(x.shape)
    first.log_scale.assign([0.1, 0.2, 0.3, 0.4])
    last.log_scale.assign([1.0, 2.0])
    y = x * np.exp([0.1, 0.2, 0.3, 0.4]).astype("float32")
    leaves, stays = y[..., 2:], y[..., :2] * np.exp([1.0, 2.0]).astype("float32")
    wanted = np.concatenate([leaves.reshape(3, -1), stays.reshape(3, -1)], 1)
    np.testing.assert_allclose(flow(x), wanted, rtol=1e-6)
    np.testing.assert_allclose(flow.forward_and_log_det(x)[1], 4 * (1.0 + 3.0), rtol=1e-6)
    np.testing.assert_allclose(flow.inverse(wanted), x, rtol=1e-5)


def test_an_estimator_of_the_call_replaces_every_blocks_own():
    flow = InvertibleSequential([InvertibleResidual(hidden=6) for _ in range(2)])
    x = normal(3, 2)
    with pytest.raises(ValueError, match="no weights yet"):
        flow.forward(tf.constant(x))
    flow.build(x.shape)
    truth = np.linalg.slogdet(jacobians(flow.forward, x))[1]
    np.testing.assert_allclose(flow.forward_and_log_det(x, log_det=Exact())[1], truth, atol=1e-5)
    first = [flow.forward_and_log_det(x, seed=s, log_det=PowerSeries(terms=2))[1] for s in (0, 1)]
    assert np.abs(first[0] - first[1]).max() > 1e-4


def test_blocks_of_a_composition_draw_independent_probes():
    block = InvertibleResidual(hidden=8, log_det=PowerSeries(terms=1))
    block.build((None, 16))
    x = normal(1, 16)
    twice = InvertibleSequential([block, block])
    _, total = twice.forward_and_log_det(x, seed=3)
    # With equal probes the total would be the sum of these two.
    same = sum(block.forward_and_log_det(p, seed=3)[1] for p in (x, block(x)))
    assert abs(float(total[0] - same[0])) > 1e-4


def test_update_reaches_every_spectral_layer():
    block = InvertibleResidual(hidden=4, normalization="power_iteration")
    flow = MultiScale([InvertibleSequential([Squeeze(), block])])
    flow.build((None, 4, 4, 1))
    layers = list(flow.spectral_layers())
    assert len(layers) == 3
    for layer in layers:
        layer.kernel.assign(normal(*layer.kernel.shape))
    before = [layer.u.numpy() for layer in layers]
    flow.update_spectral_state(2)
    assert all(np.any(layer.u != old) for layer, old in zip(layers, before, strict=True))


def test_branch_bound_is_the_product_of_its_parts():
    branch = SpectralBranch(hidden=4, kernel_sizes=(3, 1, 3), coeff=0.6)
    branch.build((None, 4, 4, 2))
    product = np.prod([part.lipschitz_bound() for part in branch.parts])
    np.testing.assert_allclose(branch.lipschitz_bound(), product)
    assert branch.lipschitz_bound() < 0.6**3 * 1.3
