"""The control variate of log-determinants: known traces, no bias, less spread.

Expectations over Rademacher probes are sums over all sign vectors, computed, not sampled; traces
are those of matrices that scipy convolves and that tapes differentiate.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tests.library.reference import SEED, conv_matrix, value_and_gradients
from tf_iresnet import functions
from tf_iresnet.functions import sorting
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap
from tf_iresnet.functions.recomputation import Recomputed
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import PowerSeries, RussianRoulette
from tf_iresnet.log_det.control_variate import control_variate, inner_trace, linearize_branch


class Branch:
    """A branch with random kernels, and its Jacobian written out."""

    def __init__(self, event, taps, hidden=4, input_activation=True, seed=0, dtype="float64"):
        rng = np.random.default_rng(seed)
        self.event, self.size, space = event, int(np.prod(event)), event[:-1]
        widths = [event[-1], *[hidden] * (len(taps) - 1), event[-1]]
        self.x = rng.standard_normal(event)
        parts, self.parameters = [], []
        h, jacobian = self.x, np.eye(self.size)
        for index, (size, k) in enumerate(zip(widths[1:], taps, strict=True)):
            shape = (*[k] * len(space), widths[index], size)
            scale = 1.6 / np.sqrt(np.prod(shape[:-1]))
            kernel = scale * rng.standard_normal(shape)
            bias = 0.5 * rng.standard_normal(size)
            if index or input_activation:
                parts.append(functions.Silu())
                gate = special.expit(h)
                slope = gate * (1 + h * (1 - gate))
                h = h * gate
                jacobian = slope.reshape(-1, 1) * jacobian
                if not index:
                    self.slope, jacobian = slope, np.eye(self.size)  # put in again below
            matrix = conv_matrix(kernel, space).T if space else kernel.T
            jacobian = matrix @ jacobian
            h = (matrix @ h.ravel()).reshape(*space, size) + bias
            parts.append(
                functions.Affine(ConvMap(space, shape) if space else DenseMap(*shape), True)
            )
            self.parameters += [tf.constant(kernel, dtype), tf.constant(bias, dtype)]
        self.function = functions.Chain(parts)
        self.inner = jacobian  # A
        self.jacobian = jacobian * self.slope.ravel() if input_activation else jacobian

    def series(self, terms):
        """sum_{k=1..n} (-1)^{k+1} tr(J^k) / k."""
        powers = [np.linalg.matrix_power(self.jacobian, k) for k in range(1, terms + 1)]
        return sum(-((-1) ** k) * np.trace(p) / k for k, p in enumerate(powers, 1))

    def tiled(self, count):
        return np.tile(self.x, (count, *[1] * len(self.event)))

    def signs(self):
        signs = list(itertools.product([-1.0, 1.0], repeat=self.size))
        return np.reshape(signs, (-1, *self.event))

    def at(self, x):
        _, residuals = self.function.linearize(self.parameters, x)
        return linearize_branch(self.function, self.parameters, residuals, tf.float64)


BRANCHES = {
    "dense": lambda **k: Branch((4,), (1, 1, 1), **k),
    "two dense": lambda **k: Branch((4,), (1, 1), **k),
    "image": lambda **k: Branch((3, 3, 1), (3, 1, 3), **k),
    "channels": lambda **k: Branch((2, 2, 2), (3, 1, 3), **k),
    "wide taps": lambda **k: Branch((4, 2, 1), (5, 1, 5), **k),
    "unequal taps": lambda **k: Branch((3, 2, 1), (3, 1, 5), **k),
    "two maps": lambda **k: Branch((2, 3, 1), (3, 3), **k),
    "line": lambda **k: Branch((7, 1), (3, 1, 3), **k),
    "volume": lambda **k: Branch((2, 2, 2, 1), (3, 1, 3), **k),
    "no input activation": lambda **k: Branch((2, 2, 2), (3, 1, 3), input_activation=False, **k),
}
every = pytest.mark.parametrize("name", BRANCHES)


@every
def test_the_trace_without_the_input_activation(name):
    branch = BRANCHES[name]()
    np.testing.assert_allclose(
        inner_trace(branch.at(branch.tiled(2))), np.trace(branch.inner), rtol=0, atol=1e-13
    )


def test_the_trace_on_a_larger_image():
    branch = Branch((6, 5, 3), (3, 1, 3), hidden=8)
    np.testing.assert_allclose(
        inner_trace(branch.at(branch.tiled(1))), np.trace(branch.inner), rtol=1e-12
    )


@every
def test_its_expectation_is_zero(name):
    branch = BRANCHES[name]()
    signs = branch.signs()
    at = branch.at(branch.tiled(len(signs)))
    values = control_variate(at, tf.constant(signs), at.pull_inner(tf.constant(signs))).numpy()
    assert abs(values.mean()) < 1e-14
    assert values.std() > 1e-3


@every
def test_it_follows_the_noise(name):
    """What is left of the standard deviation of v^T (J - J^2 / 2) v, over all sign vectors."""
    branch = BRANCHES[name](hidden=16)
    signs = branch.signs()
    at = branch.at(branch.tiled(len(signs)))
    values = control_variate(at, tf.constant(signs), at.pull_inner(tf.constant(signs))).numpy()
    flat = signs.reshape(len(signs), -1)
    terms = branch.jacobian - branch.jacobian @ branch.jacobian / 2
    noise = np.einsum("ki,ij,kj->k", flat, terms, flat)
    assert (noise - values).std() < 0.8 * noise.std()


@every
@pytest.mark.parametrize("terms", [2, 3, 6])
def test_the_series_keeps_its_expectation(fixed, name, terms):
    branch = BRANCHES[name]()
    signs = branch.signs()
    fixed(signs)
    estimator = PowerSeries(terms=terms, control_variate=True)
    value, _ = value_and_gradients(estimator, branch, branch.tiled(len(signs)))
    np.testing.assert_allclose(value.mean(), branch.series(terms), rtol=1e-11)


@pytest.mark.parametrize("name", ["dense", "channels"])
def test_the_gradient_is_that_without_it(name):
    branch = BRANCHES[name]()
    x = np.random.default_rng(1).standard_normal((3, *branch.event))
    for estimator in (PowerSeries(4), RussianRoulette(), RussianRoulette(probes=2)):
        controlled = type(estimator)(**{**estimator.get_config(), "control_variate": True})
        value, gradients = value_and_gradients(controlled, branch, x)
        plain, expected = value_and_gradients(estimator, branch, x)
        assert np.abs(value - plain).min() > 1e-6
        for gradient, truth in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("probe_distribution", ["rademacher", "gaussian"])
def test_z_score_of_the_roulette(probe_distribution):
    """The mean of independent calls against slogdet: beyond 4.5 with a chance below 1e-5.

    Random channels of four pixels; the variance is finite: rho(J)^2 < 1 - p.
    """
    branch = Branch((2, 2, 3), (3, 1, 3), hidden=8, seed=3)
    assert np.abs(np.linalg.eigvals(branch.jacobian)).max() ** 2 < 0.5
    truth = np.linalg.slogdet(np.eye(branch.size) + branch.jacobian)[1]
    x = tf.constant(branch.tiled(20))
    options = {"probability": 0.4, "probe_distribution": probe_distribution}
    estimators = [RussianRoulette(control_variate=control, **options) for control in (False, True)]

    @tf.function(autograph=False)
    def call(seed):
        both = [e(branch.function, branch.parameters, x, seed)[1] for e in estimators]
        return tf.reduce_mean(both, axis=1)

    values = np.array([call(tf.constant([3, i, 0])) for i in range(300)])
    spread = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (abs(values.mean(0) - truth) < 4.5 * spread).all()
    # A wrong trace of a single term would be seen.
    assert spread[1] < 0.05 * abs(np.trace(branch.jacobian))
    assert spread[1] < spread[0]


@pytest.mark.parametrize(
    "function",
    [
        functions.Taped(lambda p, x: tf.sin(x @ p[0]), 1),
        functions.Chain([functions.Affine(DenseMap(4, 4), False)]),
        functions.Chain([sorting.PairSort(), *[functions.Affine(DenseMap(4, 4), False)]]),
    ],
    ids=["user's own", "one layer", "maxmin"],
)
def test_branches_of_another_form_go_without(function):
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 4)))
    parameters = [tf.constant(0.1 * np.random.default_rng(1).standard_normal((4, 4)))]
    with_it, without = (
        PowerSeries(3, control_variate=control)(function, parameters, x, SEED)[1]
        for control in (True, False)
    )
    np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_shape": (2, 2, 2, 2)},
        {"kernel_shape": (3, 3, 1, 2), "groups": 2},
        {"kernel_shape": (3, 3, 2, 2), "dilation_rate": (2, 2)},
    ],
    ids=["even", "groups", "dilation"],
)
def test_convolutions_of_another_form_go_without(options):
    maps = [ConvMap((4, 4), **options), ConvMap((4, 4), **options)]
    affine = [functions.Affine(m, False) for m in maps]
    function = functions.Chain([affine[0], functions.Silu(), affine[1]])
    parameters = [tf.ones(options["kernel_shape"], tf.float64)] * 2
    x = tf.ones([1, 4, 4, 2], tf.float64)
    _, residuals = function.linearize(parameters, x)
    assert linearize_branch(function, parameters, residuals, tf.float64) is None


def test_one_certain_term_is_too_few(fixed):
    branch = BRANCHES["dense"]()
    fixed(np.ones((1, 4)), 2)
    options = {"exact_terms": 1, "distribution": "poisson"}
    values = [
        value_and_gradients(RussianRoulette(**options, control_variate=c), branch, branch.tiled(1))
        for c in (False, True)
    ]
    np.testing.assert_array_equal(values[0][0], values[1][0])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.soak)])
def test_blocks_take_it(dtype):
    """In a block: recomputed or not, in graphs of any batch size, however the batch is cut."""
    x = tf.constant(np.random.default_rng(0).standard_normal((5, 4, 4, 2)), dtype)
    estimator = RussianRoulette(control_variate=True)
    results = []
    for recompute in (False, True):
        tf.keras.utils.set_random_seed(0)
        block = InvertibleResidual(hidden=8, log_det=estimator, recompute=recompute, dtype=dtype)
        block.build((None, 4, 4, 2))
        graph = tf.function(
            lambda x, start, block=block: block.forward_and_log_det(x, tf.stack([1, 2, start]))[1],
            input_signature=[tf.TensorSpec([None, 4, 4, 2], dtype), tf.TensorSpec([], tf.int32)],
        )
        results += [
            block.forward_and_log_det(x, [1, 2, 0])[1],
            tf.concat([graph(x[:2], 0), graph(x[2:], 2)], 0),
        ]
        assert isinstance(block._differentiated(dtype)[0], Recomputed) == recompute
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-6)
    plain = block.forward_and_log_det(x, [1, 2, 0], log_det=RussianRoulette())[1]
    assert np.abs(plain - results[0]).max() > 1e-3


@pytest.mark.parametrize("make", [PowerSeries, RussianRoulette])
def test_its_configuration(make):
    estimator = make(control_variate=True)
    assert make.from_config(estimator.get_config()) == estimator != make()
    with pytest.raises(ValueError, match="control_variate must be True or False, got 'yes'"):
        make(control_variate="yes")
