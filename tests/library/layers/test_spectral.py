"""The norm constraint against the singular values of operators written out densely."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.layers.spectral_cases import (
    CASES,
    COEFF,
    build,
    every,
    iterate,
    matrix,
    mostly_soak,
)
from tests.library.reference import conv_matrix, difference
from tf_iresnet.layers import SpectralConv2D, SpectralDense


@mostly_soak
def test_converged_norm_is_coeff_from_both_sides(name):
    layer = build(name, 2.5)
    iterate(layer)
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert COEFF * (1 - 1e-5) < norm < COEFF * (1 + 1e-4)
    assert norm <= layer.lipschitz_bound() < COEFF * 1.1
    # converge_spectral_state stops earlier, at a small residual.
    layer = build(name, 2.5)
    layer.converge_spectral_state()
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert COEFF * (1 - 1e-5) < norm < COEFF * (1 + 3e-4)
    # Soft: a multiple of the kernel, nothing else.
    ratio = layer.normalized_kernel() / layer.kernel
    np.testing.assert_allclose(ratio, tf.reduce_mean(ratio), rtol=1e-4)


@mostly_soak
@pytest.mark.parametrize("norm", [0.1, 0.79])
def test_kernels_below_coeff_are_left_alone(name, norm):
    layer = build(name, norm)
    layer.converge_spectral_state()
    np.testing.assert_array_equal(layer.normalized_kernel(), layer.kernel)


@mostly_soak
def test_sigma_is_never_above_the_norm(name):
    """So the constraint never shrinks a kernel needlessly, converged or not."""
    layer = build(name, 2.5)
    for _ in range(3):
        norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
        assert norm >= COEFF * (1 - 1e-5)
        layer.update_spectral_state(1)


@every
def test_call_is_the_normalised_operator(name):
    layer = build(name, 2.5)
    layer.bias.assign(np.arange(1.0, 1 + layer.bias.shape[0]))
    shape = CASES[name][1]
    x = np.random.default_rng(2).standard_normal((2, *shape)).astype("float32")
    y = layer(x)
    operator = matrix(name, layer.normalized_kernel())
    rows = x.reshape(-1, operator.shape[0])  # a dense layer acts on the last axis alone
    wanted = (rows @ operator).reshape(y.shape) + np.asarray(layer.bias)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["dense tall", "conv 1-D causal", "conv 2-D same", "conv 3-D same"]
)
def test_without_constraint_the_kernel_is_used_as_it_is(name):
    layer = build(name, 2.5, coeff=None)
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    np.testing.assert_array_equal(layer.normalized_kernel(), layer.kernel)
    layer.update_spectral_state(3)
    layer.converge_spectral_state()
    assert 2.5 * (1 - 1e-6) <= layer.lipschitz_bound() < 2.5 * 1.1


@pytest.mark.parametrize(
    "name", ["dense tall", "conv 1-D causal", "conv 2-D same", "conv 3-D same"]
)
def test_gradient_of_the_raw_kernel_is_that_with_fixed_u_and_v(name):
    """f(K) = <C, x K min(1, c / u^T K v)>, u and v constants, in float64."""
    layer = build(name, 2.5, "float64")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, *CASES[name][1]))
    with tf.GradientTape() as tape:
        y = layer(x)
        weights = rng.standard_normal(y.shape)
        value = tf.reduce_sum(weights * y)
    mine = tape.gradient(value, layer.kernel)
    u, v = np.ravel(layer.u), np.ravel(layer.v)

    def function(kernel):
        operator = matrix(name, kernel)
        scale = COEFF / max(COEFF, v @ operator @ u)
        return np.sum(weights * (x.reshape(2, -1) @ operator * scale).reshape(weights.shape))

    truth = difference(function, layer.kernel.numpy())[0]
    np.testing.assert_allclose(mine, truth, rtol=1e-6, atol=1e-7)


def test_construction_is_warm_and_follows_keras_seed():
    kernels = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        layer = SpectralDense(40, coeff=0.3)
        layer.build((None, 30))
        kernels.append(layer.normalized_kernel().numpy())
        assert np.linalg.norm(kernels[-1], 2) < 0.3 * 1.05
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])


def test_a_kernel_of_zeros_and_tiny_kernels_stay_finite():
    for initializer in ("zeros", keras.initializers.Constant(1e-30)):
        layer = SpectralConv2D(2, 3, kernel_initializer=initializer)
        y = layer(np.ones((1, 4, 4, 1), "float32"), training=True)
        layer.converge_spectral_state()
        assert np.isfinite(y).all()
        assert np.isfinite(layer.normalized_kernel()).all()
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [0, 1]))
        iterate(layer, 300)
        norm = np.linalg.norm(conv_matrix(layer.normalized_kernel().numpy(), (4, 4)), 2)
        assert norm < 0.9 * (1 + 1e-3)


def test_half_precision_computes_low_and_keeps_weights_and_bound_honest():
    layer = build("conv 2-D same", 2.5, "mixed_bfloat16")
    iterate(layer)
    assert layer(np.ones((1, 5, 6, 2), "float32")).dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    cast = tf.cast(tf.cast(layer.normalized_kernel(), tf.bfloat16), tf.float64).numpy()
    assert np.linalg.norm(matrix("conv 2-D same", cast), 2) <= layer.lipschitz_bound()


@every
def test_a_bound_in_the_norm_s_place_holds_without_any_state(name):
    layer = build(name, 2.5, normalization="bound")
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    assert layer.spectral_state == []
    layer.update_spectral_state(3)
    layer.converge_spectral_state()
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert 0.8 * COEFF < norm <= COEFF
    assert norm <= layer.lipschitz_bound() <= COEFF
    assert norm <= layer.norm_estimate() <= COEFF * (1 + 1e-6)
    below = build(name, 0.5, normalization="bound")
    np.testing.assert_array_equal(below.normalized_kernel(), below.kernel)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_the_bound_covers_the_cast_for_compute(policy):
    layer = build("conv 2-D same", 2.5, policy, normalization="bound")
    for seed in range(5):
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [1, seed]))
        stored = layer.normalized_kernel()
        for dtype in (layer.variable_dtype, layer.compute_dtype):
            cast = tf.cast(tf.cast(stored, dtype), tf.float64).numpy()
            assert np.linalg.norm(matrix("conv 2-D same", cast), 2) <= COEFF


def test_the_bound_covers_a_cast_that_rounds_every_weight_up():
    """0.8 / 6 is 136.5 units of bfloat16, and its bound so tight that the cast alone decides."""
    layer = build("dense wide", 2.5, "mixed_bfloat16", normalization="bound")
    layer.kernel.assign(np.ones((4, 9)))
    cast = tf.cast(tf.cast(layer.normalized_kernel(), tf.bfloat16), tf.float64)
    assert 0.95 * COEFF < np.linalg.norm(cast, 2) <= COEFF


def test_the_lipschitz_bound_counts_the_activation():
    layer = build("dense tall", 0.5, activation="silu")
    np.testing.assert_allclose(layer.lipschitz_bound(), 1.09984 * layer.norm_bound(), rtol=1e-5)
    with pytest.raises(ValueError, match="activation 'softmax' has no known Lipschitz constant"):
        build("dense tall", 0.5, activation="softmax").lipschitz_bound()


@mostly_soak
def test_auto_is_a_choice_from_the_first_build_on(name):
    layer = build(name, 2.5, normalization="auto")
    assert layer.normalization == layer.get_config()["normalization"] == "bound"


def test_auto_is_power_iteration_for_many_channels():
    wide = SpectralConv2D(256, 3)
    wide.build((None, 4, 4, 256))
    assert wide.normalization == "power_iteration"


def test_auto_is_the_bound_for_an_operator_of_few_pixels():
    """Its matrix is wide, though it has one channel."""
    narrow = SpectralConv2D(16, 3)
    narrow.build((None, 8, 8, 1))
    assert narrow.normalization == "bound"
