"""The density of a flow, its samples and its estimates, against their definitions."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.library import small_models as small
from tests.library.reference import jacobians
from tf_iresnet.fixed_point import ConvergenceError
from tf_iresnet.log_det import Exact, RussianRoulette

IMAGE = {"event": small.EVENT}
CASES = {
    "logit": {"alpha": 0.01},
    "logit, factored out": {"event": (8, 4, 1), "factor_out": True, "kernel_sizes": (3, 3)},
    "shift, no ActNorm": {"preprocessing": "shift", "actnorm": False, "factor_out": True},
    "images as they are": {"preprocessing": None, "prior": "standard", "factor_out": True},
    "points": {"event": (3,), "levels": None, "blocks": (2,), "activation": "elu"},
    "points, two scales": {"event": (4,), "levels": None, "factor_out": True},
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A trained flow in float64 and a few examples."""
    arguments = {**IMAGE, **CASES[request.param]}
    event = arguments["event"]
    x = small.pixels(16, event) if len(event) == 3 else small.points(16, *event)
    model = small.flow(dtype="float64", log_det=Exact(), **arguments)
    before = small.values(model.trainable_variables)
    small.train(model, x, 2)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path  # each has a gradient
    return model, x[:3].astype("float64")


def preprocess(model, x):
    """What the blocks see, and ln|det| of it, from the formulas."""
    if model.preprocessing is None:
        return x, 0.0
    if model.preprocessing == "shift":
        return x / model.levels - 0.5, -x[0].size * np.log(model.levels)
    p = model.alpha + (1 - 2 * model.alpha) * x / model.levels
    slope = (1 - 2 * model.alpha) / model.levels / (p * (1 - p))
    return np.log(p / (1 - p)), np.log(slope).sum((1, 2, 3))


def test_log_prob_is_the_density_of_a_change_of_variables(case):
    model, x = case
    y, preprocessing = preprocess(model, x)
    blocks = model.flow.layers[-1]
    z = blocks.forward(tf.constant(y)).numpy()
    np.testing.assert_allclose(model.encode(x), z, rtol=0, atol=1e-12)
    log_det = np.linalg.slogdet(jacobians(blocks.forward, y))[1]
    prior = stats.norm.logpdf(z, model.prior.loc, np.exp(model.prior.log_scale)).sum(1)
    truth = prior + log_det + preprocessing
    np.testing.assert_allclose(model.log_prob(x, log_det=Exact()), truth, rtol=1e-11)
    bits = -truth / np.log(2) / x[0].size
    np.testing.assert_allclose(model.bits_per_dim(x, log_det=Exact()), bits, rtol=1e-11)


def test_decode_undoes_encode(case):
    model, x = case
    result = model.decode(model.encode(x), return_result=True)
    assert result.converged.numpy().all()
    np.testing.assert_allclose(result.x, x, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(model.decode(model.encode(x)), result.x)


def test_a_standard_prior_is_not_trained(case):
    model, _ = case
    learned = model.prior_kind == "learned"
    assert bool(model.prior.trainable_variables) == learned
    assert np.all(np.asarray(model.prior.log_scale) == 0) != learned


@pytest.mark.quick
def test_the_density_integrates_to_one():
    model = small.flow((2,), levels=None, blocks=(2,), dtype="float64", log_det=Exact())
    small.train(model, small.points(64, 2), 3, 0.1)
    side = np.linspace(-9, 11, 140)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    density = np.exp(model.log_prob(grid, log_det=Exact())).reshape(140, 140)
    assert density[0].max() < 1e-6  # nothing is left outside
    np.testing.assert_allclose(np.trapezoid(np.trapezoid(density, side), side), 1, atol=1e-5)


# --- a flow of images in float32 ---


@pytest.fixture(scope="module")
def images():
    return small.pixels(6, seed=1)


@pytest.fixture(scope="module")
def model():
    estimator = RussianRoulette(exact_terms=1, probability=0.5)
    flow = small.flow(coeff=0.8, eval_log_det=estimator, alpha=1e-3)
    return small.train(flow, small.pixels(32))


@pytest.fixture(scope="module")
def log_prob(model):
    """`log_prob` as a graph for any batch size."""
    x, seed = tf.TensorSpec([None, *small.EVENT]), tf.TensorSpec([3], tf.int32)
    return tf.function(model.log_prob, input_signature=[x, seed], autograph=False)


def test_graphs_take_any_batch_size(model, log_prob, images):
    for count in (1, 6):
        truth = model.log_prob(images[:count], [3, 4, 0])
        assert truth.dtype == tf.float32
        np.testing.assert_allclose(log_prob(images[:count], [3, 4, 0]), truth, rtol=1e-5)
    assert log_prob.experimental_get_tracing_count() == 1


def test_an_estimate_depends_on_the_key_and_the_example(log_prob, images):
    whole = log_prob(images, [5, 6, 10]).numpy()
    parts = [log_prob(images[:2], [5, 6, 10]), log_prob(images[2:], [5, 6, 0])]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)
    same = np.repeat(images[:1], 6, 0)
    assert len(set(log_prob(same, [5, 6, 10]).numpy())) == 1
    assert np.all(log_prob(images, [5, 7, 10]) != whole)


def test_estimates_average_to_the_exact_value(model, log_prob, images):
    draws = [log_prob(images, [7, seed, 0]).numpy() for seed in range(400)]
    errors = np.mean(draws - model.log_prob(images, log_det=Exact()).numpy(), axis=1)
    assert errors.std() > 1e-3
    # Of 15,000 such tests of a right estimator one would fail; the seeds are fixed.
    assert abs(errors.mean()) < 4 * errors.std(ddof=1) / np.sqrt(len(errors))


def test_log_prob_without_a_seed_draws_anew(model, images):
    assert np.any(model.log_prob(images) != model.log_prob(images))


def test_samples_are_a_function_of_the_seed(model):
    x = model.sample(3, seed=1)
    assert x.shape == (3, *small.EVENT)
    np.testing.assert_array_equal(model.sample(3, seed=1), x)
    assert np.all(model.sample(3, seed=2) != x)
    assert np.any(model.sample(3) != model.sample(3))


def test_samples_come_one_by_one_as_in_a_batch(model):
    whole = model.sample(5, seed=[1, 2, 0])
    parts = [model.sample(2, seed=[1, 2, 0]), model.sample(3, seed=[1, 2, 2])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_are_decoded_draws_of_the_prior(model, temperature):
    z = model.sample_latents(500, 3, temperature).numpy()
    loc, scale = model.prior.loc.numpy(), np.exp(model.prior.log_scale.numpy())
    assert stats.kstest(((z - loc) / scale).ravel() / temperature, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(model.sample(3, 3, temperature), model.decode(z[:3]))


def test_temperature_zero_decodes_the_mean(model):
    mean = model.decode(model.prior.loc.numpy()[None])
    np.testing.assert_allclose(model.sample(2, 0, 0.0), np.repeat(mean, 2, 0), atol=1e-5)


def test_sampled_pixels_stay_in_their_range():
    model = small.flow(preprocessing="shift", actnorm=False)
    x = model.sample(4, seed=0).numpy()
    assert x.min() == 0 < x.max() < small.LEVELS  # floor(x) then is a pixel
    assert np.isfinite(model.log_prob(x, seed=0)).all()


def test_one_failing_example_leaves_the_others_alone(model, images):
    z = model.encode(images[:3]).numpy()
    z[1] = 3e38
    result = model.decode(z, return_result=True)
    np.testing.assert_array_equal(result.converged, [True, False, True])
    np.testing.assert_allclose(result.x.numpy()[[0, 2]], images[[0, 2]], atol=1e-4)
    with pytest.raises(ConvergenceError, match="of 1 of 3 examples did not converge"):
        model.decode(z)


# --- without a constraint ---


def test_the_unconstrained_twin_says_where_it_has_no_inverse():
    model = small.flow(coeff=None)
    x = small.pixels(4)
    model.adapt(x)
    assert np.isfinite(model.log_prob(x, seed=0, log_det=Exact())).all()
    for layer in model.flow.spectral_layers():
        layer.kernel.assign(8 * layer.kernel)
    z = model.encode(x)
    result = model.decode(z, return_result=True)
    assert not result.converged.numpy().any()
    with pytest.raises(ConvergenceError, match=r"4 of 4 .* nothing says that it is invertible"):
        model.decode(z)
    graph = tf.function(model.decode, autograph=False)
    assert np.isnan(graph(z)).all()


# --- as a distribution ---


@pytest.fixture(scope="module")
def distribution():
    model = small.flow(eval_log_det=Exact(), factor_out=True)
    small.train(model, small.pixels(32), 2)
    return model, model.as_distribution()


def test_the_distribution_has_the_flow_s_density(distribution, images):
    model, density = distribution
    assert density.event_shape == small.EVENT
    assert density.batch_shape == ()
    np.testing.assert_allclose(density.log_prob(images), model.log_prob(images), rtol=1e-5)


def test_the_distribution_shares_all_weights(distribution, images):
    model, density = distribution
    assert {id(v) for v in density.trainable_variables} == {
        id(v._value) for v in model.trainable_variables
    }
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(density.log_prob(images))
    gradients = tape.gradient(loss, density.trainable_variables)
    assert all(np.any(g.numpy() != 0) for g in gradients)


def test_the_distribution_samples(distribution):
    model, density = distribution
    x = density.sample(200, seed=1)
    assert density.sample(seed=0).shape == small.EVENT
    standard = (model.encode(x) - model.prior.loc) / tf.exp(model.prior.log_scale)
    assert stats.kstest(standard.numpy().ravel(), "norm").pvalue > 1e-3
