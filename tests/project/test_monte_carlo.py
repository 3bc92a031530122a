"""A flow that learns from its own draws, whose direction iterates, and serves Monte Carlo."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from benchmarks import monte_carlo as mc


@pytest.mark.soak
def test_fit_lowers_the_divergence():
    """From a normal density that is known to one that is not centred, nor round."""
    target_mean, deviation = np.array([1.0, -0.5]), np.array([0.7, 1.4])

    def target(x):
        return -0.5 * tf.reduce_sum(tf.square((x - target_mean) / deviation), -1)

    bijector = mc.flow(seed=0, blocks=1)
    losses = mc.fit(bijector, target, steps=60, batch=64, seed=0, tempered=False)
    # KL = loss + ln Z is at least 0, and 0 for the target alone.
    kl = np.array(losses) + math.log(2 * math.pi * deviation.prod())
    assert kl[:5].mean() > 0.5
    assert abs(kl[-10:].mean()) < 0.1
    draws = bijector.inverse(tf.random.stateless_normal([2000, 2], [0, 1])).numpy()
    np.testing.assert_allclose(draws.mean(0), target_mean, atol=0.25)
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.2)


def test_the_true_moments_are_those_of_the_density():
    """By sums over a fine grid."""
    first, second = np.meshgrid(np.linspace(-16, 16, 401), np.linspace(-4, 70, 3701), indexing="ij")
    grid = np.stack([first, second], -1)
    weights = np.exp(mc.banana(tf.constant(grid)).numpy())
    functions = np.concatenate([grid, grid**2], -1)
    means = (weights[..., None] * functions).sum((0, 1)) / weights.sum()
    np.testing.assert_allclose(means, mc.TRUTH, rtol=1e-3, atol=1e-3)


@pytest.mark.soak
def test_a_flow_leaves_what_is_sampled_as_it_is(monkeypatch):
    """HMC through a flow that was not fitted: a wrong log-determinant would move the moments."""
    monkeypatch.setattr(mc, "overdispersed", lambda count, seed: np.ones((count, 2), np.float32))
    monkeypatch.setattr(mc, "CHAINS", 256)  # cost little more than a few do
    bijector = mc.flow(seed=0, blocks=1)
    for variable in bijector.layer.trainable_variables:
        if variable.path.endswith("kernel"):  # far from linear
            variable.assign(2 * np.eye(*variable.shape))
    bijector.layer.converge_spectral_state()
    x = tf.random.stateless_normal([500, 2], [0, 1])
    assert bijector.forward_log_det_jacobian(x, 1).numpy().std() > 0.2
    mean, deviation = np.array([1.0, -0.5]), np.array([0.7, 1.4])

    def target(x):
        return -0.5 * tf.reduce_sum(tf.square((x - mean) / deviation), -1)

    draws = mc.chains(target, tfb.Invert(bijector), seed=1, leapfrogs=3, draws=25, adaptation=40)
    functions = tf.concat([draws, tf.square(draws)], -1)
    sizes = tfp.mcmc.effective_sample_size(functions, cross_chain_dims=1).numpy()
    values = functions.numpy().reshape(-1, 4)
    errors = values.std(0) / np.sqrt(sizes)
    truth = np.concatenate([mean, mean**2 + deviation**2])
    assert (errors < 0.1).all()
    # Four standard errors in four moments: one failure in 4,000 seeds.
    assert (abs(values.mean(0) - truth) < 4 * errors).all()


@pytest.mark.soak
def test_hamiltonian_monte_carlo_gains_from_the_flow():
    bijector = mc.flow(seed=1)
    mc.fit(bijector, mc.banana, steps=1000, batch=128, seed=1)
    constant = math.log(2 * math.pi * mc.SPREAD * mc.WIDTH)
    assert mc.divergence(bijector, mc.banana, constant, seed=1) < 0.1
    plain, _ = mc.measured(mc.banana, None, seed=1)
    through, _ = mc.measured(mc.banana, tfb.Invert(bijector), seed=1)
    assert plain["valid"]
    assert through["valid"]
    assert through["per_gradient"] > plain["per_gradient"]
    mean, square = np.split(np.array(through["moments"]), 2)
    np.testing.assert_allclose(mean, mc.TRUTH[:2], atol=0.4)
    np.testing.assert_allclose(np.sqrt(square - mean**2), np.sqrt(mc.TRUTH[2:]), rtol=0.15)
