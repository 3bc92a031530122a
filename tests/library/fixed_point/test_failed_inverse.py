"""What is derived from an inverse that failed is NaN in graphs, and an error in eager code."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.registry import CASES, inputs, make, representatives
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.fixed_point import ConvergenceError, Picard
from tf_iresnet.layers import (
    ActNorm,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    Squeeze,
    Whitening,
)
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.preprocessing import ImagePreprocessing
from tf_iresnet.log_det import Exact, PowerSeries


class Bounded(keras.Sequential):
    """A user's branch that says its bound."""

    def lipschitz_bound(self):
        return 0.9


def relu_branch():
    """A user's branch whose slopes are 0, not NaN, at NaN."""
    layers = [keras.Input((4,)), keras.layers.ReLU(), keras.layers.Dense(4, use_bias=False)]
    branch = Bounded(layers)
    branch.layers[-1].kernel.assign(0.9 * np.eye(4))
    return branch


def slow_block(activation="lipswish", log_det=None, branch=None, dtype="float64"):
    """A block that solves 0 in its three steps, and no other y."""
    options = {"solver": Picard(max_steps=3), "log_det": log_det or Exact(), "dtype": dtype}
    if branch is not None:
        block = InvertibleResidual(branch, **options)
        block.build((None, 4))
        return block
    block = InvertibleResidual(
        hidden=4, coeff=0.95, activation=activation, kernel_sizes=(1, 1), **options
    )
    block.build((None, 4))
    rng = np.random.default_rng(0)
    for layer in block.spectral_layers():
        layer.kernel.assign(5 * np.linalg.qr(rng.standard_normal(layer.kernel.shape))[0])
    block.converge_spectral_state()
    return block


def composed(*parts, kind=InvertibleSequential):
    """A composition in float64 of a block and layers given as classes."""
    layers = [part(dtype="float64") if isinstance(part, type) else part for part in parts]
    return kind(layers, dtype="float64")


Y = np.stack([np.zeros(4), np.full(4, 3.0)])
CHAINS = {
    "a block": lambda block: block,
    "a chain": lambda block: composed(ActNorm, block, Whitening),
    "a block last in the inverse": lambda block: composed(block, ActNorm),
    "a logit": lambda block: composed(ImagePreprocessing, block),
    "scales": lambda block: composed(block, ActNorm, kind=MultiScale),
}


def compiled_gradients(layer, y):
    """The sum of squares of x, and its gradients by y and the weights, in a graph."""

    @tf.function(autograph=False)
    def gradients(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            x = layer.inverse(y)
            loss = tf.reduce_sum(x**2)
        weights = [v._value for v in layer.trainable_variables]
        return x, *tape.gradient(loss, [y, *weights], unconnected_gradients="zero")

    x, by_y, *by_weights = gradients(tf.constant(y))
    return x.numpy(), by_y.numpy(), [g.numpy() for g in by_weights]


@pytest.mark.parametrize(
    "activation",
    representatives(
        ["lipswish", "clipswish", "elu", "maxmin", "softplus"], chosen=["lipswish", "maxmin"]
    ),
)
def test_values_gradients_and_log_determinants_are_nan(activation):
    block = slow_block(activation, dtype="float32" if activation == "maxmin" else "float64")
    if activation == "softplus":  # 0 is no fixed point of it
        block.branch.parts[-1].bias.assign(-block.branch(np.zeros((1, 4)))[0])
    x, by_y, by_weights = compiled_gradients(block, Y.astype(block.dtype))
    assert np.isfinite(x[0]).all()
    assert np.isfinite(by_y[0]).all()
    assert np.isnan(x[1]).all()
    assert np.isnan(by_y[1]).all()
    for gradient in by_weights:
        assert np.isnan(gradient).all()
    bijector = KerasBijector(block)
    value = tf.function(lambda y: bijector.inverse_log_det_jacobian(tf.identity(y)))(
        tf.constant(Y, block.dtype)
    )
    assert np.isfinite(value[0])
    assert np.isnan(value[1])


@pytest.mark.parametrize("chain", representatives(CHAINS, ["a chain", "a logit", "scales"]))
def test_in_compositions(chain):
    layer = CHAINS[chain](slow_block("maxmin"))
    layer.build((None, 4))
    x, by_y, by_weights = compiled_gradients(layer, Y)
    assert np.isnan(x).any(axis=1).tolist() == [False, True]
    assert np.isnan(x[1]).all()
    # Latents that left before the block failed are moved alone: MultiScale's are NaN too.
    assert np.isnan(by_y[1]).all()
    assert all(np.isnan(gradient).any() for gradient in by_weights)


@pytest.mark.parametrize("log_det", [Exact(), PowerSeries(terms=3)])
def test_a_branch_that_swallows_nan(log_det):
    block = slow_block(branch=relu_branch(), log_det=log_det)
    at = tf.constant([[np.nan] * 4, [1.0] * 4], tf.float64)

    @tf.function(autograph=False)
    def value(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = block.forward_and_log_det(x, seed=0)[1]
        return log_det, tape.gradient(log_det, x)

    values, by_x = value(at)
    assert np.isnan(values).tolist() == [True, False]
    assert np.isfinite(by_x[1]).all()


def test_eager_code_raises_for_values_and_for_gradients():
    block = slow_block()
    with pytest.raises(ConvergenceError, match="1 of 2 examples") as raised:
        block.inverse(Y)
    assert raised.value.result.converged.numpy().tolist() == [True, False]
    assert raised.value.result.error_bound[1] > 0
    y = tf.constant(Y)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        result = block.inverse(y, return_result=True)
        loss = tf.reduce_sum(result.x**2)
        kept = tf.reduce_sum(tf.where(result.converged[:, None], result.x**2, 0.0))
    with pytest.raises(ConvergenceError, match=r"at 1 of 2 examples: .*converged"):
        tape.gradient(loss, y)
    gradient = tape.gradient(kept, [y, *block.trainable_variables])
    assert all(np.isfinite(g).all() for g in gradient)


def test_iterates_stay_visible_and_their_gradient_does_not():
    block = slow_block()

    @tf.function(autograph=False)
    def gradients(y):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            result = block.inverse(y, return_result=True)
            loss = tf.reduce_sum(result.x**2, axis=1)
            kept = tf.where(result.converged, loss, 0.0)
        return result.x, tape.gradient(loss, y), tape.gradient(kept, y)

    x, by_y, of_kept = gradients(tf.constant(Y))
    assert np.isfinite(x).all()
    assert np.isnan(by_y).all(axis=1).tolist() == [False, True]
    assert np.isfinite(of_kept).all()


def test_sums_of_the_good_ones_are_as_without_the_failed_one():
    block = slow_block()
    _, alone, _ = compiled_gradients(block, Y[:1])
    _, both, _ = compiled_gradients(block, Y)
    np.testing.assert_array_equal(both[:1], alone)


def test_samples_of_a_model_whose_inverse_fails():
    """Clipping to the range of pixels takes NaN for no pixel."""
    flow = small.flow(coeff=0.9)
    flow.adapt(small.pixels(8))
    for layer in flow.flow._flatten_layers():
        if isinstance(layer, InvertibleResidual):
            layer.solver = Picard(max_steps=2)
    x = tf.function(lambda: flow.sample(4, seed=0))()
    assert np.isnan(x).all()


@pytest.mark.parametrize(
    "name",
    [
        *("dense", "dense elu", "dense softplus", "dense tanh", "dense maxmin", "own branch"),
        *("conv 2-D", "densenet", "actnorm of images", "whitening of images", "conditioned"),
    ],
)
def test_no_layer_swallows_nan(name):
    layer = make(name)
    x = inputs(name, 3)
    x[1] = np.nan
    y, log_det = layer.forward_and_log_det(x, 0, PowerSeries(terms=1))
    nan_where_failed = np.isnan(y).reshape(3, -1)
    assert nan_where_failed.all(axis=1).tolist() == [False, True, False]
    assert not nan_where_failed[[0, 2]].any()
    if CASES[name].estimated:
        assert np.isnan(log_det).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "make_layer", [lambda: ImagePreprocessing(4), lambda: MarginalGaussianization(4), ActNorm]
)
def test_no_preprocessing_swallows_nan(make_layer):
    layer = make_layer()
    layer.build((None, 17))
    x = np.full((2, 17), 1.5, "float32")
    x[1] = np.nan
    y, log_det = layer.forward_and_log_det(x)
    assert np.isnan(y).all(axis=1).tolist() == [False, True]
    if make_layer is not ActNorm:
        assert np.isnan(log_det).tolist() == [False, True]
    assert np.isnan(layer.inverse(y)).all(axis=1).tolist() == [False, True]


def test_sorted_pairs_with_a_nan_are_nan():
    x = np.array([[1.0, np.nan, 4.0, 3.0], [np.nan, 2.0, 1.0, 5.0]], "float32")
    y = make("dense maxmin").branch.parts[0](x).numpy()
    np.testing.assert_array_equal(y, [[np.nan, np.nan, 4.0, 3.0], [np.nan, np.nan, 5.0, 1.0]])


def test_permutations_of_a_failed_inverse():
    flow = InvertibleSequential([Squeeze(), InvertibleResidual(hidden=2, solver=Picard(2))])
    flow.build((None, 2, 2, 1))
    x = tf.function(flow.inverse)(np.full((1, 1, 1, 4), 9.0, "float32"))
    assert np.isnan(x).all()
