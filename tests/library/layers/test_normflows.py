"""The public residual block against normflows' numbers for the same weights."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import Normflows
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import Exact, PowerSeries

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module", params=["dense", "conv"])
def case(request):
    """The arrays, and the block with normflows' raw weights and converged u and v."""
    truth = Normflows(request.param)
    kernels = [truth[f"raw_kernel_{i}"] for i in range(3)]
    block = InvertibleResidual(
        hidden=kernels[0].shape[-1],
        kernel_sizes=[k.shape[0] if k.ndim == 4 else 1 for k in kernels],
        coeff=float(truth["coeff"]),
        normalization="power_iteration",
        dtype="float64",
    )
    block.build((None, *truth["x"].shape[1:]))
    for i, kernel in enumerate(kernels):
        activation, linear = block.branch.parts[2 * i : 2 * i + 2]
        activation.beta.assign(truth[f"beta_{i}"])
        linear.kernel.assign(kernel)
        linear.bias.assign(truth[f"bias_{i}"])
    block.converge_spectral_state(tolerance=1e-12, iterations=20_000)
    return truth, block


def test_normalised_kernels(case):
    truth, block = case
    for i, linear in enumerate(block.branch.parts[1::2]):
        np.testing.assert_allclose(linear.normalized_kernel(), truth[f"kernel_{i}"], rtol=1e-8)


def test_forward_inverse_and_log_det(case):
    truth, block = case
    y, log_det = block.forward_and_log_det(truth["x"], log_det=Exact())
    np.testing.assert_allclose(y, truth["y"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(block(truth["x"]), truth["y"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_det, truth["logdet_exact"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(block.inverse(truth["inverse_y"]), truth["inverse_x"], atol=1e-9)


def test_mean_of_the_series_is_normflows_exact_value(case):
    truth, block = case
    x = np.repeat(truth["x"][:1], 200, 0)
    # In training, where equal examples have different noise.
    series = PowerSeries(terms=80)
    draws = block.forward_and_log_det(x, seed=0, log_det=series, training=True)[1].numpy()
    error = np.std(draws) / np.sqrt(len(draws))
    assert error < 0.3
    assert abs(np.mean(draws) - truth["logdet_exact"][0]) < 4 * error


def test_gradients_of_the_exact_log_det(case):
    truth, block = case
    x = tf.constant(truth["x"])
    parts = [(f"beta_{i}", block.branch.parts[2 * i].beta) for i in range(3)]
    for i, linear in enumerate(block.branch.parts[1::2]):
        parts += [(f"raw_kernel_{i}", linear.kernel), (f"bias_{i}", linear.bias)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(block.forward_and_log_det(x, log_det=Exact())[1])
    by_x, *gradients = tape.gradient(total, [x, *(v for _, v in parts)])
    np.testing.assert_allclose(by_x, truth["exact_grad_x"], rtol=0, atol=1e-8)
    for (name, _), gradient in zip(parts, gradients, strict=True):
        if name == "bias_2":  # the last bias moves no Jacobian
            assert gradient is None or not np.any(gradient)
        else:
            wanted = truth[f"exact_grad_{name}"]
            np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-7, err_msg=name)
