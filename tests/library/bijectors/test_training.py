"""Training through TFP: weights are found, gradients arrive, and nothing cached is stale."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tests.library.bijectors.bijector_cases import WRAPPERS, X, change, distribution, exact, wrapped
from tests.library.reference import rows_at_once
from tests.library.registry import make
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import Exact, PowerSeries


@wrapped
def test_every_weight_is_found_once(wrap):
    bijector = exact()
    whole = wrap(bijector)
    for mine, layers in (
        (whole.trainable_variables, bijector.layer.trainable_variables),
        (whole.variables, bijector.layer.variables),
    ):
        assert {id(v) for v in mine} == {id(v._value) for v in layers}
        assert len(mine) == len(layers) > 0


@wrapped
def test_checkpoint_restores_every_weight(wrap, tmp_path):
    bijector = exact()
    saved = [v.numpy() for v in bijector.layer.variables]
    path = tf.train.Checkpoint(model=wrap(bijector)).save(tmp_path / "checkpoint")
    change(bijector)
    tf.train.Checkpoint(model=wrap(bijector)).restore(path).assert_consumed()
    for variable, value in zip(bijector.layer.variables, saved, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kind", ["distribution", "distribution of a chain"])
def test_log_probs_gradient_is_that_of_the_formula(kind, graph):
    bijector, x = exact(), tf.constant(X)
    data = WRAPPERS[kind](bijector)
    shift = 1.0 if "chain" in kind else 0.0
    weights = bijector.layer.trainable_variables

    def mine():
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(data.log_prob(x))
        return tape.gradient(value, [x, *data.trainable_variables])

    with tf.GradientTape() as outer:
        outer.watch(x)
        points = x - shift
        y = bijector.layer.forward(points)
        jacobian = rows_at_once(bijector.layer.forward, points)
        value = tf.reduce_sum(tf.linalg.slogdet(jacobian)[1]) - tf.reduce_sum(tf.square(y)) / 2
    truth = outer.gradient(value, [x, *(v._value for v in weights)])
    position = {id(v._value): i for i, v in enumerate(weights)}
    order = [0] + [1 + position[id(v)] for v in data.trainable_variables]
    for a, index in zip((tf.function(mine) if graph else mine)(), order, strict=True):
        assert np.any(a)
        np.testing.assert_allclose(a, truth[index], rtol=1e-3, atol=1e-4)


def test_training_with_tfps_optimizer_fits_a_density():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 2)) * [0.4, 1.5] + [1.0, -1.0]
    x = tf.constant(x @ [[0.8, 0.6], [-0.6, 0.8]], tf.float32)
    options = {"hidden": 16, "kernel_sizes": (1, 1), "coeff": 0.97, "log_det": Exact()}
    blocks = InvertibleSequential([InvertibleResidual(**options) for _ in range(2)])
    bijector = KerasBijector(blocks, event_shape=[2])
    data = distribution(bijector, 2)
    before = [v.numpy() for v in data.trainable_variables]

    def loss():
        return -tf.reduce_mean(data.log_prob(x))

    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(data.trainable_variables)
    options = {"optimizer": optimizer, "trainable_variables": data.trainable_variables}
    losses = tf.function(lambda: tfp.math.minimize(loss, 80, **options))()
    assert losses[-1] < losses[0] - 0.4
    assert all(np.any(v != old) for v, old in zip(data.trainable_variables, before, strict=True))
    # The entropy of the normal distribution that x comes from is what no model beats for long.
    assert losses[-1] > 0.5 * np.log((2 * np.pi * np.e) ** 2 * 0.6**2) - 0.3
    back = bijector.inverse(tf.identity(bijector.forward(x)))
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_update_is_nobodys_duty():
    bijector = exact()
    (first, *_) = bijector.layer.spectral_layers()
    x = tf.random.stateless_normal((4, *bijector.layer.compute_input_shape((None, 5))[1:]), (0, 0))
    values = []
    for update in (bijector.update, lambda: None):
        first.kernel.assign(5 * np.random.default_rng(3).standard_normal(first.kernel.shape))
        update()
        values.append(bijector.forward(tf.identity(x)))
        assert np.linalg.norm(first.normalized_kernel(), 2) < 0.9 * (1 + 1e-4)
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_one_trace_for_many_calls():
    bijector, x = exact(), tf.constant(X)
    for call in (bijector.forward, tfb.Chain([bijector]).forward, distribution(bijector).log_prob):
        traced = tf.function(call)
        for _ in range(3):
            traced(x)
        assert traced.experimental_get_tracing_count() == 1


def test_saved_model_of_a_module(tmp_path):
    bijector = exact()

    class Density(tf.Module):
        def __init__(self):
            super().__init__()
            self.density = distribution(bijector)

        @tf.function(input_signature=[tf.TensorSpec([None, 5])])
        def log_prob(self, x):
            return self.density.log_prob(x)

    module = Density()
    tf.saved_model.save(module, str(tmp_path))
    restored = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(restored.log_prob(X), module.log_prob(X), rtol=1e-6)


@pytest.mark.soak  # `test_monte_carlo` does so in every run
def test_exact_bijector_serves_monte_carlo():
    """Draws from exp(-|f(x)|^2 / 2), moved to the latent space."""
    bijector = exact("dense tanh")
    assert not bijector.is_stochastic
    kernel = tfp.mcmc.TransformedTransitionKernel(
        tfp.mcmc.HamiltonianMonteCarlo(
            lambda x: -tf.reduce_sum(tf.square(x), -1) / 2, step_size=0.4, num_leapfrog_steps=3
        ),
        tfb.Invert(bijector),
    )
    run = tf.function(
        lambda: tfp.mcmc.sample_chain(
            40, tf.zeros([40, 3]), kernel=kernel, trace_fn=None, num_burnin_steps=10, seed=[0, 1]
        )
    )
    draws = run().numpy().reshape(-1, 3)
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=0.15)
    np.testing.assert_allclose(draws.std(0), 1.0, atol=0.15)


@pytest.mark.parametrize("how", ["transformed kernel", "log_prob", "inner kernel in a graph"])
def test_monte_carlo_refuses_a_stochastic_log_det(how):
    bijector = KerasBijector(make("dense tanh"), log_det=PowerSeries(terms=3))
    assert bijector.is_stochastic
    if how == "log_prob":
        target, wrap = distribution(bijector, 3).log_prob, lambda kernel: kernel
    else:
        target = lambda x: -tf.reduce_sum(tf.square(x), -1) / 2  # noqa: E731

        def wrap(kernel):
            return tfp.mcmc.TransformedTransitionKernel(kernel, tfb.Invert(bijector))

    kernel = wrap(tfp.mcmc.HamiltonianMonteCarlo(target, step_size=0.4, num_leapfrog_steps=1))

    def run():
        return tfp.mcmc.sample_chain(2, tf.zeros([2, 3]), kernel=kernel, trace_fn=None, seed=[0, 1])

    with pytest.raises(ValueError, match=r"random estimate.*pass log_det=Exact\(\)"):
        (tf.function(run) if "graph" in how else run)()


def test_a_stochastic_log_det_serves_everything_else():
    """Densities, and Monte Carlo on a seeded one, which is a deterministic function."""
    bijector = KerasBijector(make("dense tanh"), log_det=PowerSeries(terms=3))
    density = distribution(bijector, 3)
    assert np.isfinite(density.log_prob(tf.zeros([2, 3]))).all()
    kernel = tfp.mcmc.RandomWalkMetropolis(
        lambda x: density.log_prob(x, bijector_kwargs={"seed": 0})
    )
    draws = tfp.mcmc.sample_chain(2, tf.zeros([2, 3]), kernel=kernel, trace_fn=None, seed=[0, 1])
    assert np.isfinite(draws).all()
