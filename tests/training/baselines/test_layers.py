"""The baselines' layers against formulas written out in NumPy and SciPy."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import linalg

from tests.library.gpu_kernels import missing, spec
from tests.library.reference import jacobians
from tf_iresnet.certificate.variance import log_det_statistics
from tf_iresnet.log_det import Exact, PowerSeries
from training.baselines.architectures import alternating
from training.baselines.autoregressive import MaskedAutoregressive
from training.baselines.continuous import ContinuousFlow
from training.baselines.coupling import Coupling
from training.baselines.linear import InvertibleLinear

DIMS = 5


def built(layer, dims=DIMS, seed=0, by=0.4):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    layer.build((None, *dims) if isinstance(dims, tuple) else (None, dims))
    for variable in layer.trainable_variables:
        variable.assign_add(by * rng.standard_normal(variable.shape))
    return layer


def points(count=6, dims=DIMS):
    return np.random.default_rng(9).standard_normal((count, dims))


def network_of(layer, x):
    """The hidden layers of a network on vectors, by formula."""
    parts = layer.network.layers
    for index, part in enumerate(parts):
        x = x @ part.kernel.numpy() + part.bias.numpy()
        x = x if index + 1 == len(parts) else np.maximum(x, 0)
    return x


@pytest.mark.parametrize("scale", ["none", "tanh", "sigmoid"])
def test_a_coupling_is_its_formula(scale):
    masked, others = [3, 0], [1, 2, 4]
    layer = built(Coupling(masked, 7, scale=scale, dtype="float64"))
    x = points()
    output = network_of(layer, x[:, masked])
    shift, log_scale = output[:, :3], np.zeros((6, 3))
    if scale == "tanh":
        log_scale = layer.factor.numpy() * np.tanh(output[:, 3:])
    elif scale == "sigmoid":
        log_scale = -np.log1p(np.exp(-output[:, 3:] - 2))
    expected = x.copy()
    expected[:, others] = x[:, others] * np.exp(log_scale) + shift
    y, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_det, log_scale.sum(1), rtol=0, atol=1e-13)
    assert (np.ptp(log_scale) > 0.1) == (scale != "none")


@pytest.mark.parametrize("masked", [[], [0, 1, 2, 3, 4], [5], [-1]])
def test_a_coupling_needs_two_parts(masked):
    with pytest.raises(ValueError, match="masked must name some but not all of the 5 channels"):
        Coupling(masked).build((None, DIMS))


def test_a_linear_layer_is_its_matrix_from_a_rotation_on():
    layer = InvertibleLinear(dtype="float64")
    layer.build((None, DIMS))
    x = points()
    np.testing.assert_allclose(
        np.linalg.norm(layer(x), axis=1), np.linalg.norm(x, axis=1), rtol=1e-12
    )
    layer.lower_upper.assign_add(0.3 * np.random.default_rng(0).standard_normal((DIMS, DIMS)))
    packed = layer.lower_upper.numpy()
    product = (np.tril(packed, -1) + np.eye(DIMS)) @ np.triu(packed)
    matrix = np.zeros_like(product)
    matrix[layer.permutation.numpy()] = product
    y, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(y, x @ matrix.T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_det, [np.linalg.slogdet(matrix)[1]] * 6, rtol=1e-12)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("hidden", [(12,), (9, 11)])
def test_an_autoregressive_layer_looks_back_alone(hidden, backwards):
    layer = built(MaskedAutoregressive(hidden, backwards, dtype="float64"))
    x = points(60)  # so that each hidden unit is at work at one of them
    jacobian = jacobians(layer.forward, x)
    _, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-12)
    if backwards:
        jacobian = jacobian[:, ::-1, ::-1]
    used = np.abs(jacobian).max(0) > 1e-9
    np.testing.assert_array_equal(used, np.tril(np.ones((DIMS, DIMS), bool)))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("event", [(3, 2, 2), (2, 3, 1), (4, 3)])
def test_masked_convolutions_look_back_alone(event, backwards):
    layer = built(MaskedAutoregressive((24, 20), backwards, (3, 1, 3), dtype="float64"), event)
    size = math.prod(event)
    x = np.random.default_rng(0).standard_normal((60, *event))
    jacobian = jacobians(layer.forward, x).reshape(60, size, size)
    _, log_det = layer.forward_and_log_det(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-12)
    used = np.abs(jacobian).max(0) > 1e-9
    if backwards:
        used = used[::-1, ::-1]
    assert not np.triu(used, 1).any()
    # Two 3 x 3 kernels see two pixels far; whatever of that is before is used.
    places = [np.array(place) for place in np.ndindex(*event)]
    for after, before in itertools.combinations(range(size - 1, -1, -1), 2):
        away = places[after][:-1] - places[before][:-1]
        if (abs(away) <= 1).all():
            assert used[after, before]
        if (abs(away) > 2).any():
            assert not used[after, before]


def test_an_autoregressive_layer_is_its_formula():
    layer = built(MaskedAutoregressive((12,), dtype="float64"))
    x = points()
    first, last = layer.network.layers
    hidden = np.maximum(x @ (first.kernel.numpy() * first.mask) + first.bias.numpy(), 0)
    output = hidden @ (last.kernel.numpy() * last.mask) + last.bias.numpy()
    y, log_det = layer.forward_and_log_det(x)
    expected = (x - output[:, :DIMS]) * np.exp(-output[:, DIMS:])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_det, -output[:, DIMS:].sum(1), rtol=0, atol=1e-12)


# --- a continuous flow whose differential equation is linear ---


def linear_flow(**options):
    """dz/dt = A z + b t + c, and its solution at t = 1."""
    layer = built(ContinuousFlow(kernel_sizes=(1,), dtype="float64", **options), by=0.7)
    (part,) = layer.network.layers
    kernel, bias = part.kernel.numpy(), part.bias.numpy()
    generator = np.zeros((DIMS + 2, DIMS + 2))  # of (z, t, 1)
    generator[:DIMS] = np.concatenate([kernel.T, bias[:, None]], axis=1)
    generator[DIMS, DIMS + 1] = 1.0
    solution = linalg.expm(generator)
    x = points()
    z = np.concatenate([x, np.zeros((6, 1)), np.ones((6, 1))], axis=1) @ solution.T
    return layer, x, z[:, :DIMS], np.trace(kernel[:DIMS])


def test_a_continuous_flow_solves_its_equation():
    layer, x, y, trace = linear_flow(rtol=1e-6, atol=1e-6)
    found, log_det = layer.forward_and_log_det(x, log_det=Exact())
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-4)
    np.testing.assert_allclose(log_det, [trace] * 6, rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.inverse(y), x, rtol=0, atol=1e-4)
    coarse = np.abs(layer(x) - y).max()
    layer.rtol = layer.atol = 1e-8
    assert np.abs(layer(x) - y).max() < 0.1 * coarse < 1e-5  # the tolerances are obeyed


def test_training_s_solver_is_of_fourth_order():
    errors = []
    for steps in (4, 8):
        layer, x, y, _ = linear_flow(steps=steps)
        found, _ = layer.forward_and_log_det(x, seed=0, training=True)
        np.testing.assert_allclose(
            layer.forward(tf.constant(x), training=True), found, rtol=0, atol=1e-12
        )
        errors.append(np.abs(found - y).max())
    assert 1e-9 < errors[1] < errors[0] < 1e-2
    assert 3.6 < np.log2(errors[0] / errors[1]) < 4.4


@pytest.mark.parametrize("probe_distribution", ["rademacher", "gaussian"])
def test_the_trace_s_estimate_is_unbiased_and_gains_from_probes(probe_distribution):
    spreads = []
    for probes in (1, 4):
        estimator = PowerSeries(1, probes=probes, probe_distribution=probe_distribution)
        layer, x, _, trace = linear_flow(log_det=estimator)
        copies = np.repeat(x[:1], 2000, 0)
        _, draws = layer.forward_and_log_det(copies, seed=3, training=True)
        spreads.append(np.std(draws))
        # Beyond four standard errors once in 16,000 draws of normal means.
        assert abs(np.mean(draws) - trace) < 4 * spreads[-1] / np.sqrt(2000)
    assert spreads[0] / spreads[1] == pytest.approx(2.0, rel=0.1)


def test_probes_are_a_function_of_the_seed_and_the_example():
    layer, x, _, _ = linear_flow()
    whole = layer.forward_and_log_det(x, [1, 2, 10], training=True)[1]
    parts = [
        layer.forward_and_log_det(x[a:b], [1, 2, 10 + a], training=True)[1]
        for a, b in ((0, 2), (2, 6))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-12)
    assert len(set(whole.numpy().round(9))) > 1
    other = layer.forward_and_log_det(x, [1, 3, 10], training=True)[1]
    assert np.abs(other - whole).max() > 1e-3


def test_the_gradients_of_training_are_those_of_finite_differences():
    layer = built(ContinuousFlow(4, (1, 1), steps=2, dtype="float64"), dims=2)
    x, variables = tf.constant(points(3, 2)), layer.trainable_variables

    def loss():
        y, log_det = layer.forward_and_log_det(x, seed=5, training=True)
        return tf.reduce_sum(tf.square(y)) - tf.reduce_sum(log_det)

    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        direction = np.random.default_rng(1).standard_normal(variable.shape)
        start, step = variable.numpy(), 1e-5
        ends = []
        for sign in (1, -1):
            variable.assign(start + sign * step * direction)
            ends.append(float(loss()))
        variable.assign(start)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(slope, rel=1e-6)


def test_the_variance_of_a_trace_s_estimate_is_finite():
    layer, x, _, trace = linear_flow(rtol=1e-3, atol=1e-3)
    measure = tf.function(lambda: log_det_statistics(layer, x[:1], 0, draws=30), autograph=False)
    statistics = measure()  # without a warning
    assert bool(statistics.proven_finite)
    deviation = float(statistics.variance[0] / 30) ** 0.5
    assert 0 < deviation
    assert abs(float(statistics.mean[0]) - trace) < 4 * deviation


# --- which channels a coupling keeps ---


def test_couplings_of_images_keep_checkerboards_rows_and_columns_in_turn():
    kept = [alternating(index, 8, 4) for index in range(7)]
    assert kept[:3] == [[0, 1, 6, 7], [0, 1, 2, 3], [0, 1, 4, 5]]
    assert kept[3:6] == [[2, 3, 4, 5], [4, 5, 6, 7], [2, 3, 6, 7]]
    assert kept[6] == kept[0]


def test_couplings_of_points_keep_every_second_coordinate():
    assert [alternating(index, 5, 1) for index in range(3)] == [[0, 2, 4], [1, 3], [0, 2, 4]]


@pytest.mark.parametrize("kind", [Coupling, MaskedAutoregressive])
def test_a_log_determinant_takes_one_evaluation_of_the_network(kind, monkeypatch):
    layer = built(kind([1], dtype="float64"))
    call, evaluations = layer.network.call, []

    def counting(x):
        evaluations.append(None)
        return call(x)

    monkeypatch.setattr(layer.network, "call", counting)
    layer.forward_and_log_det(points())
    assert len(evaluations) == 1


def test_layers_are_made_again_from_their_settings():
    estimator = PowerSeries(1, probes=3)
    for layer in (
        Coupling([1], 3, (1, 3), "sigmoid"),
        MaskedAutoregressive([3, 4], True),
        ContinuousFlow(3, (1,), 4, 1e-3, 1e-5, estimator),
    ):
        config = keras.saving.serialize_keras_object(layer)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == layer.get_config()


def test_gated_couplings_have_kernels_for_gpus():
    layer = Coupling([0], 2, (1,), "sigmoid", dtype="mixed_bfloat16")
    layer.build((None, 2, 2, 2))
    assert not missing(layer.forward, spec("float32", 2, 2, 2))
