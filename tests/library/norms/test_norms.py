"""Norm estimates from below and bounds from above, against singular values."""

import functools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import conv_matrix
from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.norms import conv_norm_bound, dense_norm_bound, estimates, power_iteration
from tf_iresnet.norms.dense import dense_matrix

# kernel shape, spatial shape, padding
OPERATORS = {
    "dense": ((5, 3), None, "same"),
    "dense wide": ((2, 7), None, "same"),
    "1d": ((3, 2, 4), (5,), "same"),
    "1d even": ((4, 2, 2), (4,), "same"),
    "1d causal": ((3, 3, 2), (5,), "causal"),
    "2d": ((3, 3, 2, 3), (5, 4), "same"),
    "2d even": ((2, 4, 2, 2), (5, 4), "same"),
    "2d valid": ((3, 2, 2, 3), (5, 4), "valid"),
    "2d wider than its input": ((5, 5, 1, 2), (3, 2), "same"),
    "3d": ((3, 1, 2, 2, 2), (3, 3, 2), "same"),
}
CONVS = {name: case for name, case in OPERATORS.items() if case[1] is not None}
over_operators = pytest.mark.parametrize("case", OPERATORS.values(), ids=OPERATORS.keys())
over_convs = pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())


def matrix_of(kernel, spatial_shape, padding):
    return kernel if spatial_shape is None else conv_matrix(kernel, spatial_shape, padding)


@tf.function(reduce_retracing=True)
def compiled(kernel, iterations, tolerance, *, case, seed=0):
    """Runs the power iteration as a graph, which is many times faster."""
    return power_iteration(
        kernel, case[1], padding=case[2], iterations=iterations, tolerance=tolerance, seed=seed
    )


def random_kernel(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


@functools.cache
def with_its_norm(case, seed):
    """A random kernel and its norm, by scipy's matrix."""
    kernel = random_kernel(case[0], seed)
    return kernel, np.linalg.norm(matrix_of(kernel, *case[1:]), 2)


def adversarial_kernels(shape, count, seed):
    """Random kernels of every scale; rank one, sparse, constant, alternating and zero ones."""
    rng = np.random.default_rng(seed)
    yield np.zeros(shape)
    yield np.ones(shape)
    yield (-1.0) ** np.indices(shape).sum(0)
    for index in range(count):
        kernel = rng.standard_normal(shape)
        if index % 4 == 1:
            parts = [rng.standard_normal(n) for n in shape]
            kernel = functools.reduce(np.multiply.outer, parts)
        elif index % 4 == 2:
            kernel *= rng.random(shape) < 0.2
        yield kernel * 10.0 ** rng.uniform(-150, 150) if index % 3 == 0 else kernel


def at_least_the_norm(bound, matrix):
    """Whether bound >= |matrix v| / |v| for the top singular vector, in exact arithmetic.

    The quotient falls short of the norm only by the square of the vector's error, so this sees
    a bound that is too low by less than a rounding of float64.
    """
    if not matrix.any():
        return bound >= 0
    v = np.linalg.svd(matrix / np.abs(matrix).max())[2][0]
    v = [Fraction(float(entry)) for entry in v]
    rows = [[Fraction(float(entry)) for entry in row] for row in matrix]
    image = [sum(a * b for a, b in zip(row, v, strict=True)) for row in rows]
    return Fraction(bound) ** 2 * sum(a * a for a in v) >= sum(a * a for a in image)


@over_operators
def test_the_matrix_is_scipys(case):
    kernel = random_kernel(case[0], 0)
    np.testing.assert_array_equal(dense_matrix(kernel, *case[1:]), matrix_of(kernel, *case[1:]))


@over_operators
@pytest.mark.parametrize(("iterations", "least"), [(1, 0.2), (3, 0.4), (1000, 0.999)])
def test_power_iteration_stays_below_the_norm(case, iterations, least):
    for seed in range(3):
        kernel, truth = with_its_norm(case, seed)
        if iterations > 3:
            sigma = compiled(tf.constant(kernel), iterations, 1e-12, case=case).sigma
        else:  # sooner done than traced
            options = {"padding": case[2], "iterations": iterations, "tolerance": 1e-12}
            sigma = power_iteration(kernel, case[1], seed=0, **options).sigma
        assert sigma.dtype == tf.float64
        assert truth * least <= sigma <= truth * (1 + 1e-13)


@over_operators
def test_the_vectors_are_singular_vectors(case):
    kernel = random_kernel(case[0], 3)
    matrix = matrix_of(kernel, *case[1:])
    sigma, u, v = compiled(tf.constant(kernel), 1000, 0.0, case=case)
    linear_map = map_for_kernel(*case)
    assert u.shape == (1, *linear_map.output_shape)
    assert v.shape == (1, *linear_map.input_shape)
    u, v = np.ravel(u), np.ravel(v)
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1.0, rtol=1e-12)
    np.testing.assert_allclose(v @ matrix, sigma * u, atol=1e-5)
    np.testing.assert_allclose(matrix @ u, sigma * v, atol=1e-5)


def test_float32_is_close_too():
    kernel = random_kernel((3, 3, 4, 8), 0).astype(np.float32)
    truth = np.linalg.norm(conv_matrix(kernel, (6, 6)), 2)
    case = (kernel.shape, (6, 6), "same")
    sigma = compiled(tf.constant(kernel), 1000, 1e-7, case=case).sigma
    assert sigma.dtype == tf.float32
    assert truth * (1 - 1e-3) <= sigma <= truth * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_power_iteration_at_any_scale(scale):
    kernel = np.float32(scale) * np.diag([3.0, 1.0]).astype(np.float32)
    np.testing.assert_allclose(power_iteration(kernel).sigma, 3 * scale, rtol=1e-5)


def test_a_kernel_of_zeros_has_norm_zero():
    result = power_iteration(np.zeros((3, 3, 2, 2)), (4, 4))
    assert float(result.sigma) == 0.0
    linear_map = map_for_kernel((3, 2), None)
    u, v = tf.ones((1, 2)), tf.ones((1, 3))
    for iterations in (1, 10):  # unrolled, and in a loop
        new = estimates.iterate(linear_map, tf.zeros((3, 2)), u, v, iterations)
        assert [n.numpy().tolist() for n in new] == [u.numpy().tolist(), v.numpy().tolist()]


@pytest.mark.parametrize("iterations", [0, 1, 4, 5, 9])
def test_iterate_takes_that_many_steps(iterations):
    kernel = random_kernel((4, 3), 0)
    u, v = random_kernel((1, 3), 1), random_kernel((1, 4), 2)
    new = estimates.iterate(
        map_for_kernel((4, 3), None), *map(tf.constant, (kernel, u, v)), iterations
    )
    for _ in range(iterations):
        u = v @ kernel / np.linalg.norm(v @ kernel)
        v = u @ kernel.T / np.linalg.norm(u @ kernel.T)
    np.testing.assert_allclose(new[0], u, rtol=1e-12)
    np.testing.assert_allclose(new[1], v, rtol=1e-12)


def test_the_gradient_of_sigma_is_that_of_the_norm():
    kernel = random_kernel((3, 3, 2, 2), 0)
    case = (kernel.shape, (2, 3), "same")
    _, u, v = compiled(tf.constant(kernel), 2000, 0.0, case=case)
    variable = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        sigma = estimates.sigma_of(map_for_kernel(kernel.shape, (2, 3)), variable, u, v)
    direction = random_kernel(kernel.shape, 1)
    rise = [np.linalg.norm(conv_matrix(kernel + h * direction, (2, 3)), 2) for h in (1e-5, -1e-5)]
    expected = (rise[0] - rise[1]) / 2e-5
    np.testing.assert_allclose(
        np.sum(tape.gradient(sigma, variable) * direction), expected, rtol=1e-6
    )


def test_power_iteration_in_a_graph_and_from_a_given_start():
    kernel = random_kernel((4, 3), 0)
    graph = tf.function(lambda k, u: power_iteration(k, u=u, iterations=2).sigma)
    u = np.array([1.0, 0.0, 0.0])
    expected = power_iteration(kernel, u=u, iterations=2).sigma
    np.testing.assert_allclose(graph(tf.constant(kernel), tf.constant(u)), expected)
    assert not np.isclose(expected, power_iteration(kernel, u=u[::-1].copy(), iterations=2).sigma)


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(3, 4), (1, 6), (6, 1), (5, 5)])
def test_dense_bound_is_never_below_the_norm(shape):
    for kernel in adversarial_kernels(shape, 40, 0):
        bound = dense_norm_bound(kernel)
        assert at_least_the_norm(bound, kernel)
        assert bound <= np.linalg.norm(kernel, 2) * (1 + 1e-11)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-300, 1e300])
def test_dense_bound_at_the_ends_of_the_range(scale):
    assert at_least_the_norm(dense_norm_bound(scale * np.diag([1.0, 0.7])), np.diag([scale, 0.0]))


@pytest.mark.quick
@over_convs
def test_conv_bounds_are_never_below_the_norm(case):
    shape, spatial_shape, padding = case
    for index, kernel in enumerate(adversarial_kernels(shape, 32, 1)):
        matrix = conv_matrix(kernel, spatial_shape, padding)
        norm = np.linalg.norm(matrix, 2)
        bounds = [
            conv_norm_bound(kernel),
            conv_norm_bound(kernel, spatial_shape, padding=padding),
        ]
        assert min(bounds) >= norm * (1 - 1e-13)
        if index % 8 == 0 and matrix.size < 1000:  # exact arithmetic takes its time
            assert all(at_least_the_norm(bound, matrix) for bound in bounds)
        # At a known size the bound is the norm itself.
        assert bounds[1] <= norm * (1 + 1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 40])
def test_the_bound_without_a_size_holds_at_every_size(size):
    for kernel in adversarial_kernels((4, 2, 2), 20, 2):
        norm = np.linalg.norm(conv_matrix(kernel, (size,)), 2)
        assert conv_norm_bound(kernel) >= norm * (1 - 1e-13)


@pytest.mark.parametrize(
    "shape", [(3, 2, 2), (4, 3, 2), (9, 1, 1), (3, 3, 2, 3), (5, 2, 2, 2), (3, 1, 3, 2, 1)]
)
def test_the_bound_without_a_size_is_hardly_above_the_supremum(shape):
    rank = len(shape) - 2
    for seed in range(5):
        kernel = random_kernel(shape, seed)
        # The symbol at random frequencies and, from the best one, at ever nearer ones.
        rng, best, at = np.random.default_rng(seed), 0.0, np.zeros(rank)
        taps = np.indices(shape[:rank]).reshape(rank, -1)
        for reach in [np.pi] * 3 + [0.3, 0.1, 0.03, 0.01]:
            tries = at + rng.uniform(-reach, reach, (400, rank))
            symbols = np.tensordot(
                np.exp(1j * tries @ taps), kernel.reshape(-1, *shape[rank:]), axes=1
            )
            values = np.linalg.norm(symbols, 2, axis=(1, 2))
            if values.max() > best:
                best, at = values.max(), tries[values.argmax()]
        assert best <= conv_norm_bound(kernel) <= 1.01 * best


def test_a_wide_kernel_needs_little_memory():
    kernel = np.zeros((3, 3, 3, 24, 24))
    kernel[1, 1, 1] = np.eye(24)
    tracemalloc.start()
    bound = conv_norm_bound(kernel[:, :, :, :8])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1.0 <= bound < 1.01
    assert peak < 54**3 / 2 * 8 * 24 * 16 / 4  # the whole symbol takes 242 MB


def test_bounds_of_known_operators():
    assert 3.0 <= dense_norm_bound(np.ones((3, 3))) < 3.0 + 1e-12
    assert 1.0 <= conv_norm_bound(np.array([0.0, 1.0, 0.0]).reshape(3, 1, 1)) < 1.01
    assert 1.0 <= conv_norm_bound(np.array([0.0, 1.0, 0.0]).reshape(3, 1, 1), (4,)) < 1 + 1e-8
    assert conv_norm_bound(np.zeros((3, 3, 1, 1))) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: power_iteration(np.ones((3, 3)), iterations=0), "iterations.*at least 1.*0"),
        (lambda: power_iteration(np.ones((3, 3)), tolerance=-1.0), "tolerance.*at least 0.*-1"),
        (lambda: power_iteration(np.ones((3, 2)), u=np.ones(3)), r"u must.*\(2,\).*\(3,\)"),
        (lambda: power_iteration(np.ones((3, 3, 1, 1))), r"\(3, 3, 1, 1\) needs spatial_shape"),
        (lambda: power_iteration(np.ones(3)), r"kernel must have 2 axes.*\(3,\)"),
        (lambda: power_iteration(np.ones((3, 1, 1)), (4,), padding="full"), "padding.*same.*full"),
        (lambda: dense_norm_bound(np.ones((3, 3, 1))), r"kernel must have.*2.*\(3, 3, 1\)"),
        (lambda: dense_norm_bound([[np.nan]]), "kernel holds NaN"),
        (lambda: conv_norm_bound(np.ones((3, 3))), r"kernel must have.*3, 4, 5.*\(3, 3\)"),
        (lambda: conv_norm_bound(np.full((3, 1, 1), np.inf)), "kernel holds NaN or infinite"),
        (lambda: conv_norm_bound(np.ones((3, 1, 1)), (4, 4)), r"spatial_shape.*1 sizes.*\(4, 4\)"),
        (lambda: conv_norm_bound(np.ones((3, 1, 1)), (2,), padding="valid"), "spatial_shape.*2"),
        (lambda: conv_norm_bound(np.ones((3, 1, 1)), (2,), padding="up"), "padding.*same.*up"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_integers_are_accepted():
    assert power_iteration([[3, 0], [0, 1]]).sigma.numpy() == pytest.approx(3.0)
