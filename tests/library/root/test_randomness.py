"""Counter-based draws: their law, and what they depend on.

Seeds are fixed, so nothing flickers; levels of 1e-4 are the chance that a correct generator
would have failed when the seed was chosen.
"""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_iresnet import randomness
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette
from tf_iresnet.models import IResNetFlow

DRAWS = {
    "rademacher": randomness.rademacher,
    "uniform": randomness.uniform,
    "normal": randomness.normal,
}
LAWS = {
    "uniform": (randomness.uniform, stats.uniform),
    "normal": (randomness.normal, stats.norm),
}
over_draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def like(batch, *event, dtype="float64"):
    return tf.zeros((batch, *event), dtype)


@over_draws
@pytest.mark.parametrize("event", [(1,), (3,), (33,), (2, 3, 7)])
@pytest.mark.parametrize("first", [0, 1, 100_000, 2**31 - 8])
def test_an_examples_draw_depends_on_its_index_only(draw, event, first):
    whole = draw(tf.constant([3, 4, first], tf.int32), like(7, *event)).numpy()
    pieces = [
        draw(tf.constant([3, 4, first + start], tf.int32), like(stop - start, *event))
        for start, stop in [(0, 1), (1, 4), (4, 7)]
    ]
    # Vectorised cosines round differently at the end of an array.
    ulps = 1e-13 if draw is randomness.normal else 0
    np.testing.assert_allclose(whole, np.concatenate(pieces), rtol=0, atol=ulps)


@over_draws
def test_the_graph_draws_the_same(draw):
    graph = tf.function(
        draw, input_signature=[tf.TensorSpec([3], tf.int32), tf.TensorSpec([None, 5])]
    )
    seed = tf.constant([3, 4, 5], tf.int32)
    drawn = graph(seed, like(4, 5, dtype="float32"))
    assert graph.get_concrete_function().output_shapes.as_list() == [None, 5]
    np.testing.assert_allclose(drawn, draw(seed, like(4, 5, dtype="float32")), atol=1e-6)


def test_xla_draws_the_same():
    def folded(words):
        words = randomness.fold_in(randomness.fold_in(words, 3), -7)
        shape = like(4, 5, dtype="float32")
        return *(draw(words, shape) for draw in DRAWS.values()), randomness.shared_uniform(words)

    compiled = tf.function(folded, jit_compile=True)
    for seed in (5, -3, 2**40 + 2**31, 2**63 - 1):
        words = randomness.as_seed(seed)
        for own, other in zip(folded(words), compiled(words), strict=True):
            np.testing.assert_allclose(own, other, atol=1e-6, err_msg=str(seed))


def test_double_precision_draws_have_all_their_bits():
    drawn = randomness.uniform(randomness.as_seed(4), like(1000, 4)).numpy() * 2.0**53
    np.testing.assert_array_equal(drawn, np.floor(drawn))
    assert np.mean(drawn % 2.0**20 == 0) < 0.01
    assert 0.45 < np.mean(drawn % 2) < 0.55


@over_draws
def test_keys_and_folds_change_the_draw(draw):
    seeds = [
        tf.constant([3, 4, 0], tf.int32),
        tf.constant([3, 5, 0], tf.int32),
        tf.constant([2, 4, 0], tf.int32),
        *(randomness.fold_in(tf.constant([3, 4, 0], tf.int32), data) for data in (0, 1, 2)),
    ]
    drawn = np.stack([np.ravel(draw(seed, like(100, 10))) for seed in seeds])
    correlations = np.corrcoef(drawn)[np.triu_indices(len(seeds), 1)]
    # 15 pairs of 1000 draws: a correlation beyond 0.15 has a chance below 1e-4.
    assert np.abs(correlations).max() < 0.15


@over_draws
@pytest.mark.parametrize("event", [(8,), (5,)])
def test_neighbours_are_independent(draw, event):
    drawn = draw(randomness.as_seed(1), like(4000, *event)).numpy()
    flat = drawn - drawn.mean()
    scale = (flat**2).mean()
    along_examples = np.mean(flat[1:] * flat[:-1], axis=0) / scale
    within = np.mean(flat[:, 1:] * flat[:, :-1], axis=0) / scale
    # Each is standard normal over sqrt(4000); at most 15 of them, level below 1e-4.
    assert np.abs(np.concatenate([along_examples, within])).max() * np.sqrt(4000) < 4.6


@pytest.mark.parametrize(("draw", "law"), LAWS.values(), ids=LAWS.keys())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_law_is_scipys(draw, law, dtype):
    drawn = draw(randomness.as_seed(5), like(4000, 5, dtype=dtype))
    assert drawn.dtype == dtype
    assert stats.kstest(np.ravel(drawn), law.cdf).pvalue > 1e-4


def test_moments_of_the_normal():
    drawn = np.ravel(randomness.normal(randomness.as_seed(2), like(40_000, 5)))
    # Standard errors of the first four moments: sqrt(1, 2, 15, 96) / sqrt(n).
    z = [np.mean(drawn**k) - m for k, m in zip(range(1, 5), (0, 1, 0, 3), strict=True)]
    assert (np.abs(z) * np.sqrt(drawn.size) < 4.2 * np.sqrt([1, 2, 15, 96])).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rademacher_draws_are_fair_signs(dtype):
    drawn = randomness.rademacher(randomness.as_seed(3), like(10_000, 40, dtype=dtype)).numpy()
    assert drawn.dtype == dtype
    assert np.isin(drawn, [-1.0, 1.0]).all()
    assert np.abs(drawn.mean(0)).max() * 100 < 5.0  # 40 standard normal numbers
    assert np.abs(drawn.mean()) * np.sqrt(drawn.size) < 4.0


def test_uniform_draws_stay_below_one():
    drawn = randomness.uniform(randomness.as_seed(4), like(100_000, 4, dtype="float32")).numpy()
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_normal_draws_are_finite(dtype):
    drawn = randomness.normal(randomness.as_seed(4), like(20_000, 4, dtype=dtype))
    assert drawn.dtype == dtype
    assert np.isfinite(tf.cast(drawn, tf.float32)).all()


def test_shared_draws_do_not_depend_on_the_example():
    draws = [
        randomness.shared_uniform(tf.constant([1, 2, first], tf.int32), (3,)) for first in (0, 9)
    ]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (7, [0, 7, 0]),
        (-1, [-1, -1, 0]),
        (2**32 + 5, [1, 5, 0]),
        (2**31, [0, -(2**31), 0]),
        ((3, 4), [3, 4, 0]),
        ([3, 4, 5], [3, 4, 5]),
        (np.array([3, 4, 5]), [3, 4, 5]),
        (tf.constant(7), [0, 7, 0]),
        (tf.constant(-1), [-1, -1, 0]),
        (tf.constant(2**32 + 5, tf.int64), [1, 5, 0]),
        (tf.constant([3, 4]), [3, 4, 0]),
        (tf.constant([3, 4, 5], tf.int64), [3, 4, 5]),
    ],
)
def test_seeds_are_read(seed, expected):
    words = randomness.as_seed(seed)
    assert words.dtype == tf.int32
    assert words.numpy().tolist() == expected


@pytest.mark.parametrize("seed", [[1, 2, 3, 4], tf.constant([1, 2, 3, 4]), []])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must.*two or three integers"):
        randomness.as_seed(seed)


def test_no_seed_follows_the_global_one():
    drawn = []
    for _ in range(2):
        tf.random.set_seed(1)
        drawn.append([randomness.as_seed().numpy().tolist() for _ in range(2)])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
    assert drawn[0][0][2] == 0


def test_an_unknown_event_shape_is_refused():
    draw = tf.function(
        randomness.normal,
        input_signature=[tf.TensorSpec([3], tf.int32), tf.TensorSpec([None, None])],
    )
    with pytest.raises(ValueError, match="event shape must be static"):
        draw.get_concrete_function()


# --- examples with keys of their own ---


def keys_of(count, seed=3):
    """Keys of examples that differ in a single bit."""
    x = tf.constant(np.arange(count, dtype="float32")[:, None])
    return randomness.own_keys(randomness.as_seed(seed), x)


def test_an_example_s_own_key_knows_nothing_of_the_batch():
    x = np.random.default_rng(0).normal(size=(64, 3, 2)).astype("float32")
    keys = randomness.own_keys(randomness.as_seed(5), tf.constant(x))
    assert keys.shape == (64, 1)
    order = np.random.default_rng(1).permutation(64)
    shuffled = randomness.own_keys(randomness.as_seed([0, 5, 9]), tf.constant(x[order]))
    np.testing.assert_array_equal(shuffled, keys.numpy()[order])
    assert len({*keys.numpy()[:, 0].tolist()}) == 64
    assert np.all(randomness.own_keys(randomness.as_seed(6), tf.constant(x)) != keys)
    zeros = tf.constant([[0.0], [-0.0]])
    assert len({*randomness.own_keys(randomness.as_seed(5), zeros).numpy()[:, 0].tolist()}) == 1
    pixels = tf.constant([[1, 2], [2, 1]], tf.uint8)
    assert len({*randomness.own_keys(randomness.as_seed(5), pixels).numpy()[:, 0].tolist()}) == 2


def test_a_hundred_thousand_similar_examples_have_different_keys():
    assert len(np.unique(keys_of(100_000).numpy())) == 100_000


@pytest.mark.parametrize("draw", ["uniform", "rademacher", "normal", "folded"])
def test_draws_of_own_keys_are_independent(draw):
    """Mean, variance and correlations, of neighbours among examples and draws.

    Each statistic is a mean of 10^6 terms, so a z-score; eight of them beyond 5 in absolute value
    happen in 5 of a million runs.
    """
    keys, like = keys_of(1000), tf.zeros((1000, 1000), tf.float64)
    if draw == "folded":
        keys, draw = randomness.fold_in(randomness.fold_in(keys, 1), -2), "uniform"
    x = getattr(randomness, draw)(keys, like).numpy()
    x = (x - 0.5) * np.sqrt(12) if draw == "uniform" else x
    other = getattr(randomness, draw)(randomness.fold_in(keys, 7), like).numpy()
    other = (other - 0.5) * np.sqrt(12) if draw == "uniform" else other
    for term in (x, x[1:] * x[:-1], x[:, 1:] * x[:, :-1], x * other, x[:, :500] * x[:, 500:]):
        assert abs(np.sqrt(term.size) * np.mean(term)) < 5
    fourth = np.mean(x**4)
    if fourth > 1 + 1e-9:
        assert abs(np.sqrt(x.size / (fourth - 1)) * (np.mean(x**2) - 1)) < 5


def test_draws_of_own_keys_are_the_same_compiled():
    keys, like = keys_of(5), tf.zeros((5, 7))
    for draw in (randomness.uniform, randomness.rademacher):
        eager = draw(randomness.fold_in(keys, 1), like)
        compiled = tf.function(
            lambda d=draw: d(randomness.fold_in(keys, 1), like), jit_compile=True
        )
        np.testing.assert_array_equal(compiled(), eager)


@pytest.mark.parametrize(
    "estimator",
    [
        PowerSeries(terms=5),
        RussianRoulette(exact_terms=2),
        RussianRoulette(exact_terms=3, probability=0.2, probes=2, control_variate=True),
        RussianRoulette(exact_terms=1, distribution="poisson"),
    ],
    ids=str,
)
@pytest.mark.parametrize("graph", [False, True])
def test_an_example_s_log_determinant_is_its_own(estimator, graph):
    """Alone and in a batch, whatever its place; as pixels or as points."""
    block = InvertibleResidual(hidden=8, coeff=0.9, log_det=estimator)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    block.build((None, 4))
    call = block.forward_and_log_det
    if graph:  # one for all batches
        specs = [tf.TensorSpec([None, 4]), tf.TensorSpec([], tf.int32)]
        call = tf.function(lambda x, seed: block.forward_and_log_det(x, seed), specs)
    together = call(tf.constant(x), seed=tf.constant(3))[1]
    alone = [call(tf.constant(x[i : i + 1]), seed=tf.constant(3))[1][0] for i in range(0, 16, 3)]
    np.testing.assert_allclose(together[::3], alone, rtol=0, atol=2e-6)
    backwards = call(tf.constant(x[::-1].copy()), seed=tf.constant(3))[1]
    np.testing.assert_allclose(backwards[::-1], together, rtol=0, atol=2e-6)
    assert np.std(np.asarray(call(tf.constant(x), seed=tf.constant(4))[1] - together)) > 1e-3


def test_estimates_by_own_keys_are_unbiased():
    """Their mean over seeds against the dense Jacobian's: |z| < 5, in 1e-6 of runs beyond."""
    roulette = RussianRoulette(exact_terms=2, probability=0.3)
    block = InvertibleResidual(hidden=8, coeff=0.8, log_det=roulette)
    x = tf.constant(np.random.default_rng(0).normal(size=(8, 3)).astype("float32"))
    _, exact = block.forward_and_log_det(x, log_det=Exact())
    draw = tf.function(lambda seed: block.forward_and_log_det(x, seed=seed)[1])
    draws = np.stack([draw(tf.constant(seed)) for seed in range(400)])
    z = (draws.mean(0) - exact) / (draws.std(0) / 20)
    assert np.abs(z).max() < 5
    # Examples do not share their noise: the mean over them has a smaller deviation.
    noise = (draws - draws.mean(0)) / draws.std(0)
    assert np.abs(np.corrcoef(noise.T) - np.eye(8)).max() < 5 / 20


def test_pixels_have_noise_of_their_own():
    flow = IResNetFlow((4, 4, 1), levels=4, blocks=(1,), hidden=4, ema_momentum=None)
    x = np.random.default_rng(0).integers(0, 4, (6, 4, 4, 1)).astype("uint8")
    together = flow.log_prob(x, seed=2)
    alone = [flow.log_prob(x[i : i + 1], seed=2)[0] for i in range(6)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
