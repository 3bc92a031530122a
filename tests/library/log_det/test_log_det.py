"""Log-determinant estimators: weights, values and gradients, exactly and by their statistics.

Over all 2^d sign vectors the mean of v^T A v is tr(A): with these as probes, expectations over
Rademacher probes are computed, not sampled. Weighting the draws N by scipy's law does the same
for the roulette. Tests with random draws have fixed seeds and state their level.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.library.reference import (
    SEED,
    DenseBranch,
    assert_all_close,
    difference,
    tensors_of,
    value_and_gradients,
)
from tf_iresnet.functions import Taped
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette

GEOMETRIC = RussianRoulette(exact_terms=1, probability=0.3)
POISSON = RussianRoulette(exact_terms=1, distribution="poisson", rate=2.0)
DISTRIBUTIONS = {"geometric": (GEOMETRIC, stats.geom(0.3)), "poisson": (POISSON, stats.poisson(2))}
ESTIMATORS = [
    PowerSeries(terms=4),
    PowerSeries(terms=3, probes=2, probe_distribution="gaussian"),
    RussianRoulette(probes=3),
    POISSON,
    Exact(),
    Exact(rows=2),
]
over_distributions = pytest.mark.parametrize(
    ("estimator", "law"), DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys()
)


# --- expectations, computed ---

BRANCH = DenseBranch(0, size=3, norm=0.8)
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
X = BRANCH.x[0]
TILED = np.tile(X, (8, 1))


def series(arguments, terms, weight=lambda k: 1.0):
    """sum_{k=1..n} (-1)^{k+1} w_k tr(J^k) / k, by numpy."""
    jacobian = BRANCH.jacobian(arguments[0][None], arguments[1:])[0]
    powers = [np.linalg.matrix_power(jacobian, k) for k in range(1, terms + 1)]
    return sum(-((-1) ** k) * weight(k) * np.trace(p) / k for k, p in enumerate(powers, 1))


def exact(arguments):
    """ln|det(I + J)|, by numpy."""
    jacobian = BRANCH.jacobian(arguments[0][None], arguments[1:])[0]
    return np.linalg.slogdet(np.eye(3) + jacobian)[1]


def differences(function):
    """Gradients of a function of [x, *parameters], by central differences."""
    arguments = [X, *BRANCH.parameters]
    gradients = []
    for index, argument in enumerate(arguments):

        def changed(value, index=index):
            return function([*arguments[:index], value, *arguments[index + 1 :]])

        gradients.append(difference(changed, argument, 1e-5)[0])
    return gradients


@pytest.fixture(scope="module")
def exact_gradients():
    """Gradients of the log-determinant at X."""
    return differences(exact)


def mean_over_probes(estimator):
    """The expectation over Rademacher probes of value and gradients (fix SIGNS first)."""
    return mean_of(value_and_gradients(estimator, BRANCH, TILED, np.full(8, 1 / 8)))


def mean_of(found):
    value, (by_x, *by_parameters) = found
    return np.mean(value), [np.sum(by_x, 0), *by_parameters]


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_truncated_series_and_its_gradient(fixed, terms):
    fixed(SIGNS)
    value, gradients = mean_over_probes(PowerSeries(terms=terms))
    np.testing.assert_allclose(value, series([X, *BRANCH.parameters], terms), rtol=1e-10)
    expected = differences(lambda arguments: series(arguments, terms))
    assert_all_close(gradients, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.quick
@pytest.mark.parametrize("terms", [1, 3, 8, 20])
def test_the_bias_of_truncation_is_within_its_bound(fixed, terms):
    fixed(SIGNS)
    value, _ = mean_over_probes(PowerSeries(terms=terms))
    bias = abs(value - exact([X, *BRANCH.parameters]))
    norm = np.linalg.norm(BRANCH.jacobian(X[None])[0], 2)
    assert 0 < bias <= 3 * norm ** (terms + 1) / ((terms + 1) * (1 - norm))


@over_distributions
def test_the_roulette_is_unbiased(fixed, exact_gradients, estimator, law):
    # E over N as a sum, far enough that what is left cannot be seen.
    draws = range(int(law.ppf(0)) + 1, 90 if law.dist.name == "geom" else 26)
    value, gradients = 0.0, [np.zeros_like(g) for g in exact_gradients]
    number = tf.Variable(0)
    fixed(SIGNS, number)
    of_draw = tf.function(
        lambda: tensors_of(estimator, BRANCH, TILED, np.full(8, 1 / 8)), autograph=False
    )
    for draw in draws:
        number.assign(draw)
        part, part_gradients = mean_of(of_draw())
        value += law.pmf(draw) * part
        gradients = [g + law.pmf(draw) * p for g, p in zip(gradients, part_gradients, strict=True)]
    # Beyond the last draw D the loss is that of the series cut after D + 1 terms.
    rho = np.abs(np.linalg.eigvals(BRANCH.jacobian(X[None])[0])).max()
    left = 3 * rho ** (draws[-1] + 1) / (1 - rho)
    assert left < 1e-2
    np.testing.assert_allclose(value, exact([X, *BRANCH.parameters]), atol=left + 1e-9)
    assert_all_close(gradients, exact_gradients, rtol=0, atol=30 * left + 1e-6)


def test_a_draw_of_no_term_gives_nothing(fixed):
    fixed(SIGNS, 0)
    estimator = RussianRoulette(exact_terms=0, distribution="poisson")
    value, gradients = value_and_gradients(estimator, BRANCH, TILED)
    np.testing.assert_array_equal(value, np.zeros(8))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.quick
@over_distributions
def test_every_term_counts_once_on_average(estimator, law):
    for exact_terms in (0, 1, 4):
        estimator = type(estimator)(**{**estimator.get_config(), "exact_terms": exact_terms})
        _, weight = estimator.terms_and_weights(SEED, tf.float64)
        for k in range(1, 30):
            drawn = law.sf(k - exact_terms - 1)  # P(N >= k - m)
            np.testing.assert_allclose(float(weight(tf.constant(k))) * drawn, 1.0, rtol=1e-9)


# --- random draws ---


@over_distributions
def test_the_draws_follow_scipys_law(estimator, law):
    seeds = tf.random.stateless_uniform([4000, 3], [5, 6], None, None, tf.int32)
    draws = tf.function(lambda seeds: tf.map_fn(estimator.draw, seeds))(seeds).numpy()
    last = int(law.ppf(0.995))
    observed = [np.sum(draws == k) for k in range(last)] + [np.sum(draws >= last)]
    expected = [4000 * law.pmf(k) for k in range(last)] + [4000 * law.sf(last - 1)]
    observed, expected = np.array(observed), np.array(expected)
    assert (observed[expected == 0] == 0).all()
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-4  # the level


@over_distributions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_survival_is_scipys(estimator, law, dtype):
    for j in range(-3, 20):
        ours = estimator.survival(tf.constant(j), tf.as_dtype(dtype))
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, law.sf(j - 1), rtol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize(
    ("probes", "probe_distribution"),
    [
        (1, "rademacher"),
        (2, "gaussian"),
        pytest.param(2, "rademacher", marks=pytest.mark.soak),
        pytest.param(1, "gaussian", marks=pytest.mark.soak),
    ],
)
def test_z_scores_of_the_roulette(exact_gradients, probe_distribution, probes):
    """Values and gradients of independent calls against the truth.

    One of 40 standard normal numbers lies beyond 4.5 with a chance below 3e-4. The variance is
    finite: rho^2 <= 0.64 < 1 - p.
    """
    estimator = RussianRoulette(
        1, probability=0.3, probes=probes, probe_distribution=probe_distribution
    )
    x = tf.constant(np.tile(X, (16, 1)))

    @tf.function
    def call(seed):
        arguments = [x, *BRANCH.parameters]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = tf.reduce_mean(estimator(BRANCH.function, arguments[1:], x, seed)[1])
        by_x, *by_parameters = tape.gradient(value, arguments)
        parts = [value, tf.reduce_sum(by_x, 0), *by_parameters]
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    seeds = tf.random.stateless_uniform([600, 3], [7, 8], None, None, tf.int32)
    results = np.stack([call(seed) for seed in seeds])
    truth = np.concatenate(
        [np.ravel(t) for t in (exact([X, *BRANCH.parameters]), *exact_gradients)]
    )
    errors = results.std(0, ddof=1) / np.sqrt(len(results))
    assert np.abs((results.mean(0) - truth) / errors).max() < 4.5
    # The test means something only if it can see an error of some percent of a gradient.
    assert errors[0] < 0.05 * abs(truth[0])
    assert np.median(errors[1:] / np.abs(truth[1:])) < 0.05


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_examples_have_their_own_upstream_gradient(estimator):
    x, upstream = BRANCH.x, np.array([1.5, 0.0, -2.0, 1e-3])
    value, (by_x, *by_parameters) = value_and_gradients(estimator, BRANCH, x, upstream)
    totals = [np.zeros_like(p) for p in by_parameters]
    for i in range(4):
        seed = tf.tensor_scatter_nd_update(
            SEED, [[2]], [i]
        )  # an example's probes depend on its index alone
        alone, gradients = value_and_gradients(estimator, BRANCH, x[i : i + 1], seed=seed)
        np.testing.assert_allclose(alone[0], value[i], rtol=1e-11)
        np.testing.assert_allclose(by_x[i], upstream[i] * gradients[0][0], rtol=1e-9, atol=1e-14)
        totals = [t + upstream[i] * g for t, g in zip(totals, gradients[1:], strict=True)]
    assert_all_close(by_parameters, totals, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_value_and_gradient_of_g_come_along(estimator):
    arguments = [tf.constant(BRANCH.x), *BRANCH.parameters]
    results = []
    for g_of in (
        lambda a: estimator(BRANCH.function, a[1:], a[0], SEED)[0],
        lambda a: BRANCH.plain(a[1:], a[0]),
    ):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            g = g_of(arguments)
            total = tf.reduce_sum(tf.sin(g))
        results.append([g, *tape.gradient(total, arguments)])
    assert_all_close(results[0], results[1], rtol=1e-10, atol=1e-13)


@pytest.mark.quick
@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_exact_and_its_gradient(exact_gradients, rows):
    value, (by_x, *by_parameters) = value_and_gradients(Exact(rows), BRANCH, X[None])
    np.testing.assert_allclose(value, [exact([X, *BRANCH.parameters])], rtol=1e-12)
    assert_all_close([by_x[0], *by_parameters], exact_gradients, rtol=1e-7, atol=1e-9)


def test_exact_at_points_that_are_not_finite():
    """A divergent step of a sampler is rejected by NaN; it must not end the program."""
    x = np.stack([X, np.full(3, np.nan), X])
    value, (by_x, *_) = value_and_gradients(Exact(), BRANCH, x)
    assert np.isnan(value[1])
    assert np.isnan(by_x[1]).all()
    expected, (by_x_expected, *_) = value_and_gradients(Exact(), BRANCH, x[:1])
    np.testing.assert_allclose(value[[0, 2]], expected[[0, 0]], rtol=1e-12)
    np.testing.assert_allclose(by_x[[0, 2]], by_x_expected[[0, 0]], rtol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_graphs_with_an_unknown_batch_agree_with_eager_code(estimator):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float64)])
    def graph(x):
        arguments = [x, *BRANCH.parameters]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = estimator(BRANCH.function, arguments[1:], x, SEED)[1]
            assert value.shape.as_list() == [None]
        gradients = tape.gradient(value, arguments)
        assert gradients[0].shape.as_list() == [None, 3]
        return value, gradients

    for batch in (1, 3):
        value, gradients = graph(tf.constant(BRANCH.x[:batch]))
        expected_value, expected = value_and_gradients(estimator, BRANCH, BRANCH.x[:batch])
        np.testing.assert_allclose(value, expected_value, rtol=1e-11)
        assert_all_close(gradients, expected, rtol=1e-9, atol=1e-12)
    text = str(graph.get_concrete_function().graph.as_graph_def())
    assert "While" in text
    assert "TensorListPushBack" not in text  # how a loop saves what its gradient needs


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_taped_branches_give_the_same(estimator):
    taped = DenseBranch(0)
    taped.function = Taped(DenseBranch.plain, 4)
    value, gradients = value_and_gradients(estimator, taped, BRANCH.x)
    expected_value, expected = value_and_gradients(estimator, BRANCH, BRANCH.x)
    np.testing.assert_allclose(value, expected_value, rtol=1e-11)
    assert_all_close(gradients, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_linear_branch_passes_constant_gradients(estimator):
    """J does not depend on x, nor the log-determinant."""
    branch = DenseBranch(0)
    branch.function = Taped(lambda p, x: tf.matmul(x, p[0] @ p[3] / 2), 4)
    _, (by_x, *_) = value_and_gradients(estimator, branch, BRANCH.x)
    np.testing.assert_array_equal(by_x, np.zeros_like(by_x))


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [("float64", "float64", 1e-12), ("float32", "float32", 1e-4), ("bfloat16", "float32", 0.1)],
)
def test_values_are_float32_or_wider(dtype, expected, tolerance):
    truth, _ = value_and_gradients(PowerSeries(3), BRANCH, BRANCH.x)
    x, *parameters = (tf.cast(t, dtype) for t in (BRANCH.x, *BRANCH.parameters))
    with tf.GradientTape() as tape:
        tape.watch(x)
        g, value = PowerSeries(3)(BRANCH.function, parameters, x, SEED)
    assert (g.dtype, value.dtype) == (dtype, expected)
    assert tape.gradient(value, x).dtype == dtype
    np.testing.assert_allclose(value, truth, atol=tolerance)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.stochastic], ids=repr)
def test_the_seed_decides(estimator):
    values = [
        value_and_gradients(estimator, BRANCH, BRANCH.x, seed=tf.constant(seed))[0]
        for seed in ([1, 2, 0], [1, 2, 0], [1, 3, 0], [1, 2, 4])
    ]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.isclose(values[0], values[2]).all()
    assert not np.isclose(values[0], values[3]).all()


@pytest.mark.parametrize("probe_distribution", ["rademacher", "gaussian"])
def test_probes_differ(probe_distribution):
    one, two = (
        value_and_gradients(PowerSeries(3, probes, probe_distribution), BRANCH, BRANCH.x)[0]
        for probes in (1, 2)
    )
    assert not np.isclose(one, two).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_configuration_round_trips(estimator):
    again = type(estimator).from_config(estimator.get_config())
    assert again == estimator
    assert hash(again) == hash(estimator)
    assert eval(repr(estimator)) == estimator
    assert sum(e == estimator for e in ESTIMATORS) == 1


def test_expected_terms():
    assert GEOMETRIC.expected_terms == pytest.approx(1 + 1 / 0.3)
    assert POISSON.expected_terms == pytest.approx(1 + 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PowerSeries(terms=0), "terms must.*at least 1.*0"),
        (lambda: PowerSeries(terms=2.5), "terms must be an integer.*2.5"),
        (lambda: PowerSeries(probes=True), "probes must be an integer.*True"),
        (lambda: PowerSeries(probe_distribution="cauchy"), "probe_distribution.*gaussian.*cauchy"),
        (lambda: RussianRoulette(exact_terms=-1), "exact_terms must.*at least 0.*-1"),
        (lambda: RussianRoulette(distribution="zeta"), "distribution.*geometric.*poisson.*zeta"),
        (lambda: RussianRoulette(probability=1.0), r"probability must lie in \(0, 1\).*1.0"),
        (lambda: RussianRoulette(rate=0.0), "rate must be positive.*0.0"),
        (lambda: Exact(rows=0), "rows must.*at least 1.*0"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_variance_is_finite_where_its_terms_fall():
    """The second moment is a series in the norm: E w_N^2 norm^(2 N), by scipy's law."""
    draws = np.arange(1, 60)
    for name, (estimator, law) in {
        "geometric 0.1": (RussianRoulette(probability=0.1), stats.geom(0.1)),
        "geometric 0.5": (RussianRoulette(probability=0.5), stats.geom(0.5)),
        "poisson": (RussianRoulette(distribution="poisson"), stats.poisson(2)),
    }.items():
        for norm in (0.3, 0.7, 0.72, 0.94, 0.96):
            terms = law.pmf(draws) * (norm**draws / law.sf(draws - 1)) ** 2
            falls = terms[-1] < terms[-2]
            assert estimator.has_finite_variance(norm) == falls, (name, norm)
    assert PowerSeries().has_finite_variance(0.99)
    assert Exact().has_finite_variance(0.99)
