"""The baselines' densities, both directions and training, against their definitions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.library import small_models as small
from tests.library.registry import representatives
from tests.training.baselines.tiny import ARCHITECTURES, EVENT, baseline, moved
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette
from training.baselines import FFJORD, MAF, NICE, Glow, RealNVP

every = pytest.mark.parametrize("name", ARCHITECTURES)
kinds = pytest.mark.parametrize("name", ["glow", "ffjord", "maf"])
X = small.pixels(24)


def least(name):
    """The event of the fewest pixels for a baseline: two scales need more than one does."""
    return EVENT if name in ("glow", "realnvp") else (2, 2, 1)


# The others differ from one of these in their couplings, or in the networks within.
DIFFERENT = ("nice", "realnvp", "glow", "ffjord", "maf")


@pytest.fixture(scope="module", params=representatives(ARCHITECTURES, DIFFERENT))
def case(request):
    """A moved flow in float64, and three examples."""
    changes = {}
    if request.param == "ffjord":
        changes["architecture"] = FFJORD((1,), 4, (3, 3), rtol=1e-8, atol=1e-8)
    model = moved(baseline(request.param, dtype="float64", **changes))
    return request.param, model, X[:3].astype("float64")


def quick(name, function):
    """The function as a graph where a solver loops, which is slow in eager code."""
    return tf.function(function, autograph=False) if name == "ffjord" else function


def finite_differences(function, x, step=1e-4):
    """Dense Jacobians by central differences of fourth order, which no tape takes part in."""
    size = x[0].size
    units = step * np.eye(size).reshape(size, 1, *x.shape[1:])
    columns = sum(
        weight
        * function((x + k * units).reshape(-1, *x.shape[1:])).numpy().reshape(size, len(x), -1)
        for k, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
    )
    return np.moveaxis(columns, 0, -1) / step


def test_log_prob_is_the_density_of_a_change_of_variables(case):
    name, model, x = case
    encode = quick(name, model.encode)
    z = encode(x).numpy()
    jacobian = finite_differences(encode, x, 1e-3 if name == "ffjord" else 1e-4)
    log_det = np.linalg.slogdet(jacobian)[1]
    prior = stats.norm.logpdf(z, model.prior.loc, np.exp(model.prior.log_scale)).sum(1)
    value = quick(name, lambda x: model.log_prob(x, log_det=Exact()))(x)
    np.testing.assert_allclose(value, prior + log_det, rtol=0, atol=1e-5)
    bits = -(prior + log_det) / np.log(2) / 16
    np.testing.assert_allclose(model.to_bits(value), bits, rtol=0, atol=1e-6)


def test_decode_undoes_encode(case):
    name, model, x = case
    result = quick(name, lambda x: model.decode(model.encode(x), return_result=True))(x)
    assert result.converged.numpy().all()
    np.testing.assert_allclose(result.x, x, rtol=0, atol=1e-6 if name == "ffjord" else 1e-10)
    counted = result.steps.numpy()
    assert (counted > 10).all() if name == "ffjord" else (counted == 0).all()


def test_an_exact_likelihood_is_the_same_in_every_draw(case):
    name, model, x = case
    log_prob = quick(name, model.log_prob)
    values = [log_prob(x, seed=tf.constant([0, seed, 0])).numpy() for seed in (0, 1)]
    same = np.array_equal(*values)
    assert same == (name != "ffjord")
    assert model.eval_log_det.stochastic == (name == "ffjord")


@kinds
def test_float32_is_about_float64(name):
    event = least(name)
    low, high = moved(baseline(name, event)), baseline(name, event, dtype="float64")
    high.set_weights(low.get_weights())
    x = small.pixels(3, event)
    a, b = (model.log_prob(x, seed=0) for model in (low, high))
    assert (a.dtype, b.dtype) == (tf.float32, tf.float64)
    np.testing.assert_allclose(a, b, rtol=1e-3)
    np.testing.assert_allclose(low.decode(low.encode(x)), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["realnvp", "glow", "maf"])
def test_graphs_take_any_batch_size(name):
    model = moved(baseline(name))
    signature = [tf.TensorSpec([None, *EVENT]), tf.TensorSpec([3], tf.int32)]
    log_prob = tf.function(model.log_prob, input_signature=signature, autograph=False)
    there_and_back = tf.function(
        lambda x: model.decode(model.encode(x)), input_signature=signature[:1], autograph=False
    )
    for count in (1, 5):
        x = X[:count]
        truth = model.log_prob(x, [3, 4, 0])
        np.testing.assert_allclose(log_prob(x, [3, 4, 0]), truth, rtol=1e-4)
        np.testing.assert_allclose(there_and_back(x), x, rtol=0, atol=1e-3)
    assert log_prob.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", representatives(ARCHITECTURES, DIFFERENT))
def test_every_weight_is_trained(name):
    model = baseline(name)
    before = small.values(model.trainable_variables)
    small.train(model, X, 1)
    start = float(model.get_metrics_result()["loss"])
    model.reset_metrics()
    small.train(model, X, 2)
    assert float(model.get_metrics_result()["loss"]) < start
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.path
    trained = {variable.path for variable in model.trainable_variables}
    others = {v.path.split("/")[-1] for v in model.variables if v.path not in trained}
    assert others <= {"initialized", "permutation", "total", "count"}


def test_fit_improves_bits_per_dim():
    model = baseline("nice", ema_momentum=0.5)
    model.compile(keras.optimizers.Adam(0.02))
    model.adapt(X)
    before = model.evaluate(X, batch_size=24, verbose=0, return_dict=True)["loss"]
    data = tf.data.Dataset.from_tensor_slices(X).batch(9).repeat()
    history = model.fit(data, epochs=1, steps_per_epoch=20, shuffle=False, verbose=0).history
    assert history["loss"] == history["bits_per_dim"]
    after = model.evaluate(X, batch_size=10, verbose=0, return_dict=True)["loss"]
    assert after < before - 0.1
    with model.averaged_weights():
        np.testing.assert_allclose(np.mean(model.bits_per_dim(X)), after, rtol=1e-4)


@kinds
def test_files_restore_the_model(name, tmp_path):
    event = least(name)
    x = small.pixels(2, event)
    model = moved(baseline(name, event))
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert restored.architecture == model.architecture
    assert restored.eval_log_det == model.eval_log_det
    model.save_weights(tmp_path / "only.weights.h5")
    other = baseline(name, event)
    other.load_weights(tmp_path / "only.weights.h5")
    for copy in (restored, other):
        np.testing.assert_array_equal(copy.log_prob(x, seed=3), model.log_prob(x, seed=3))
        a, b = (part.sample(2, seed=1) for part in (copy, model))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["realnvp", "maf"])
def test_samples_are_decoded_latents_of_the_prior(name):
    event = least(name)
    model = moved(baseline(name, event), by=0.05)
    x = model.sample(3, seed=7, temperature=0.5)
    assert x.shape == (3, *event)
    z = model.sample_latents(3, seed=7, temperature=0.5)
    np.testing.assert_allclose(x, model.clipped(model.decode(z)), atol=1e-5)
    assert not np.allclose(x, model.sample(3, seed=8, temperature=0.5))


@every
def test_a_context_is_refused(name):
    model = baseline(name)
    with pytest.raises(ValueError, match="unconditional but got a context"):
        model.log_prob(X[:2], context=np.ones((2, 3), "float32"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NICE((), 4), "blocks must hold"),
        (lambda: RealNVP((2, 2), (4, 4, 4)), "hidden must be one integer or one for each"),
        (
            lambda: Glow((1,), 4, coupling="linear"),
            r"coupling must be one of \('affine', 'additive'\)",
        ),
        (lambda: FFJORD((1,), 4, steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: MAF((1,), 4, depth=0), "depth must be an integer of at least 1, got 0"),
        (lambda: MAF((1,), 4, kernel_sizes=(3, 0)), "kernel_sizes must hold"),
        (lambda: MAF((1,), 4, 2, (3, 3)), "leave out one of depth=2 and kernel_sizes="),
        (
            lambda: baseline("maf", architecture=MAF((1,), 4, kernel_sizes=(2, 1))),
            "kernel_sizes must hold 2 odd integers for 1 hidden layers, got",
        ),
        (lambda: baseline("nice", (1,), levels=None, preprocessing=None), "at least 2 channels"),
        (lambda: baseline("nice", architecture="nice"), "architecture must be an Architecture"),
        (lambda: baseline("nice", (6, 6, 1)), "no multiples of factor 2"),
        (lambda: baseline("ffjord", eval_log_det=3), "eval_log_det must be a LogDetEstimator"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_estimator_of_a_series_is_refused_by_ffjord():
    model = baseline("ffjord")
    for estimator in (PowerSeries(terms=2), RussianRoulette()):
        with pytest.raises(ValueError, match=r"PowerSeries\(terms=1\).*Exact\(\)"):
            model.log_prob(X[:2], log_det=estimator)


def test_an_empty_batch_goes_through_a_solver():
    model = baseline("ffjord")
    y, log_det = model.flow.forward_and_log_det(X[:0], seed=0)
    assert (y.shape, log_det.shape) == ((0, 16), (0,))
    assert model.decode(y).shape == (0, *EVENT)
