"""Proven bounds against the singular values of operators written out by scipy."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from tests.library.norms.kernels import operators, trained
from tests.library.reference import conv_matrix
from tf_iresnet.functions.linear_maps import map_for_kernel
from tf_iresnet.norms import banded, conv_norm_bound, gram, powers
from tf_iresnet.norms.banded import banded_norm_bound
from tf_iresnet.norms.dense import dense_norm_bound, multiply_up, round_up
from tf_iresnet.norms.symbol import Grid, sized_grid, symbol_bound, torus_grid


def norm(kernel, sizes, padding):
    """The largest singular value, without leaving float64's range."""
    scale = np.abs(kernel).max() or 1.0
    return scale * np.linalg.norm(conv_matrix(kernel / scale, sizes, padding), 2)


def sized(kernel, sizes, padding):
    """The bound at a given size that needs no factorisation."""
    pairs = zip(kernel.shape, sizes, strict=False)
    return symbol_bound(kernel, tuple(sized_grid(k, n, padding, len(sizes)) for k, n in pairs))


def check(count, seed):
    for kernel, sizes, padding in operators(count, seed):
        truth, case = norm(kernel, sizes, padding), (kernel.shape, sizes, padding)
        everywhere = conv_norm_bound(kernel)
        circular = sized(kernel, sizes, padding)
        exact = conv_norm_bound(kernel, sizes, padding=padding)
        assert min(everywhere, circular, exact) >= truth, case
        # Roundings are relative to the largest tap, even where no pixel uses it.
        assert exact <= np.hypot(truth, 1e-6 * np.abs(kernel).max()) * (1 + 2e-6), case
        assert circular <= everywhere * (1 + 1e-9), case
        matrix = conv_matrix(kernel, sizes, padding)
        assert truth <= dense_norm_bound(matrix) <= truth * (1 + 1e-9), case


def test_no_bound_is_below_the_norm():
    check(330, 0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 9))
def test_no_bound_is_below_the_norm_of_thousands(seed):
    check(400, seed)


@pytest.mark.parametrize("kernel", trained(), ids=range(len(trained())))
def test_wider_images(kernel):
    """Sizes at which the image's edges matter less, and more than two blocks of lines."""
    for sizes, padding in (((9, 8), "same"), ((5, 11), "valid")):
        truth = norm(kernel, sizes, padding)
        assert truth <= conv_norm_bound(kernel, sizes, padding=padding) <= truth * (1 + 1e-6)
        assert truth <= sized(kernel, sizes, padding) <= truth * 1.1
        assert truth <= conv_norm_bound(kernel) <= truth * 1.15


@pytest.mark.parametrize("size", [1, 2, 3, 8, 20])
def test_the_circular_bound_is_the_norm_of_a_smooth_stencil(size):
    """(1, 2, 1) has the eigenvalues 2 + 2 cos(pi j / (n + 1))."""
    kernel = np.reshape([1.0, 2.0, 1.0], (3, 1, 1))
    truth = 2 + 2 * np.cos(np.pi / (size + 1))
    assert truth <= sized(kernel, (size,), "same") * (1 + 1e-15) <= truth * (1 + 1e-9)
    plane = np.multiply.outer(kernel[:, 0, 0], kernel)
    assert sized(plane, (size, 3), "same") < truth * (2 + 2 * np.cos(np.pi / 4)) * (1 + 1e-9)


@pytest.mark.parametrize("wrong", [0.0, 0.5, 0.995, 1 - 1e-7, 1.2])
@pytest.mark.parametrize(
    ("shape", "sizes", "padding"),
    [((3, 2, 3), (7,), "same"), ((3, 2, 3, 2), (5, 6), "same"), ((2, 2, 2), (6,), "valid")],
)
def test_a_wrong_estimate_costs_tightness_never_truth(wrong, shape, sizes, padding, monkeypatch):
    kernel = np.random.default_rng(0).standard_normal(shape)
    truth = norm(kernel, sizes, padding)
    monkeypatch.setattr(
        banded, "_lanczos", lambda *blocks: wrong * (truth / abs(kernel).max()) ** 2
    )
    bound = banded_norm_bound(kernel, sizes, padding)
    assert bound is None or bound >= truth
    assert (bound is None) == (wrong < 0.99)
    assert conv_norm_bound(kernel, sizes, padding=padding) >= truth


def test_a_wrong_factor_is_noticed(monkeypatch):
    """The proof rests on the residual, not on the factorisation."""
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3))
    truth, cholesky = norm(kernel, (8,), "same"), np.linalg.cholesky
    estimate = 0.5 * (truth / abs(kernel).max()) ** 2

    def shifted(matrix):  # of some matrix that has a factor
        least = np.linalg.eigvalsh(matrix)[0]
        return cholesky(matrix - min(0.0, 1.1 * least) * np.eye(len(matrix)))

    monkeypatch.setattr(banded, "_lanczos", lambda *blocks: estimate)
    monkeypatch.setattr(np.linalg, "cholesky", shifted)
    assert banded_norm_bound(kernel, (8,), "same") >= truth


def test_what_takes_too_long_is_left_to_the_symbol(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 3))
    tight = conv_norm_bound(kernel, (6, 6))
    monkeypatch.setattr(banded, "_BUDGET", 100.0)
    assert banded_norm_bound(kernel, (6, 6), "same") is None
    assert tight < conv_norm_bound(kernel, (6, 6)) < conv_norm_bound(kernel)


def test_a_convolution_of_a_classifier_s_last_scale_is_bounded_closely():
    kernel = tf.constant(np.random.default_rng(0).standard_normal((3, 3, 256, 128)))
    image = tf.ones((1, 4, 4, 256), tf.float64)
    for _ in range(400):  # the power method, whose estimates are never above the norm
        image /= tf.norm(image)
        image = tf.nn.conv2d_transpose(
            tf.nn.conv2d(image, kernel, 1, "SAME"), kernel, image.shape, 1, "SAME"
        )
    least = np.sqrt(tf.norm(image))
    assert least <= conv_norm_bound(kernel.numpy(), (4, 4)) <= least * (1 + 1e-3)


def test_grids():
    assert torus_grid(1, 2) == Grid(1)
    for taps in (2, 3, 4, 7):
        for axes in (1, 2, 3):
            grid = torus_grid(taps, axes)
            assert grid.points > taps - 1
            assert 1.0 < grid.factor**axes <= 1.005
    # Left of the image stand fewer zeros than taps right of it: the circle must hold both.
    assert [sized_grid(k, 5, "same", 1).points % (5 + k // 2) for k in (2, 3, 4, 5)] == [0] * 4
    assert sized_grid(3, 5, "valid", 1).points % 5 == 0
    assert sized_grid(3, 5, "causal", 1).points % 7 == 0
    assert sized_grid(3, 500, "same", 1) == torus_grid(3, 1)


def gram_bound(kernel, sizes=None, padding="same"):
    """The bound and its gradient for one kernel, in the kernel's own dtype."""
    kernel = np.asarray(kernel)
    linear_map = map_for_kernel(kernel.shape, sizes, padding)
    bounds, gradients = gram.norm_bounds(linear_map, tf.constant(kernel)[None])
    return float(bounds[0]), gradients[0].numpy()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bound_of_training_is_never_below_the_norm(dtype):
    for kernel, sizes, padding in operators(60, 100):
        if dtype == "float32":  # the range of float64 is not its own
            kernel = (kernel / (np.abs(kernel).max() or 1.0)).astype("float32")
        truth = norm(kernel.astype("float64"), sizes, padding)
        bound, _ = gram_bound(kernel, sizes, padding)
        assert truth <= bound <= conv_norm_bound(kernel) * 1.01, (kernel.shape, sizes, padding)
    for shape in ((1, 1), (3, 7), (8, 2), (5, 5)):
        kernel = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        truth = np.linalg.norm(kernel.astype("float64"), 2)
        assert truth <= gram_bound(kernel)[0] <= truth * 1.001
    stencil = np.reshape([1.0, 2.0, 1.0], (3, 1, 1)).astype(dtype)  # by the best shift
    truth = 2 + 2 * np.cos(np.pi / 6)
    assert truth <= gram_bound(stencil, (5,))[0] <= truth * 1.001
    equal = np.eye(7, dtype=dtype)  # where a norm by powers alone is loosest
    assert 1 <= gram_bound(equal)[0] <= 1 + 1e-3
    assert gram_bound(np.zeros((3, 2, 2), dtype), (4,)) == (0.0, pytest.approx(0.0))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_training_of_hundreds_of_wide_kernels(seed):
    """Sums long enough to be made in parts, and roundings of float32 that add up."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        shape = (3, *map(int, rng.integers(2, 300, 2)))
        kernel = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3)
        if rng.random() < 0.5:  # singular values that are nearly equal
            flat, _, other = np.linalg.svd(kernel.reshape(3 * shape[1], -1), full_matrices=False)
            kernel = (flat @ other).reshape(shape)
        kernel = kernel.astype("float32")
        size = int(rng.integers(3, 6))
        truth = norm(kernel.astype("float64"), (size,), "same")
        assert truth <= gram_bound(kernel, (size,))[0] <= conv_norm_bound(kernel) * 1.03
        matrix = kernel[0]
        truth = np.linalg.norm(matrix.astype("float64"), 2)
        assert truth <= gram_bound(matrix)[0] <= truth * 1.03


def test_kernels_are_bounded_together_as_one_by_one():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((5, 3, 3, 4, 6)) * np.reshape(
        10.0 ** np.arange(-4, 6, 2), (5, 1, 1, 1, 1)
    )
    bounds, gradients = gram.norm_bounds(map_for_kernel((3, 3, 4, 6), (5, 6)), tf.constant(kernels))
    for kernel, bound, gradient in zip(kernels, bounds, gradients, strict=True):
        alone, its_gradient = gram_bound(kernel, (5, 6))
        np.testing.assert_allclose(bound, alone, rtol=1e-12)
        np.testing.assert_allclose(gradient, its_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((4, 3), None),
        ((3, 4), None),
        ((3, 2, 3), (6,)),
        ((3, 2, 3, 2), (4, 5)),
        ((3, 2, 2, 5), (4, 5)),
    ],
)
def test_the_gradient_of_the_bound_of_training(shape, sizes):
    kernel = np.random.default_rng(0).standard_normal(shape)
    direction = np.random.default_rng(1).standard_normal(shape)
    bound, gradient = gram_bound(kernel, sizes)
    above, below = (gram_bound(kernel + step * direction, sizes)[0] for step in (1e-5, -1e-5))
    np.testing.assert_allclose(np.sum(gradient * direction), (above - below) / 2e-5, rtol=1e-2)
    np.testing.assert_allclose(np.sum(gradient * kernel), bound, rtol=1e-9)
    if sizes is None:  # u v^T, where one singular value leads
        u, _, vt = np.linalg.svd(kernel)
        kernel += 3 * np.outer(u[:, 0], vt[0])
        _, gradient = gram_bound(kernel)
        np.testing.assert_allclose(gradient, np.outer(u[:, 0], vt[0]), rtol=0, atol=1e-6)


def test_the_cost_of_a_bound_follows_the_products():
    def cost(inputs, outputs):
        return gram.operations(map_for_kernel((1, inputs, outputs), (9,)))

    np.testing.assert_allclose(cost(128, 128), 8 * cost(64, 64))
    np.testing.assert_allclose(cost(128, 900) - cost(128, 500), 2 * 128**2 * 400)
    assert cost(16, 200) == cost(200, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_margin_for_rounding_holds(dtype):
    """Taps just below the middle between two numbers of the dtype, all rounded the same way."""
    unit = float(powers.ROUNDINGS[dtype][0])
    kernel = np.full((3, 2, 2), 1.0 + 0.99 * unit)
    rounded = tf.cast(tf.cast(tf.constant(kernel), dtype), tf.float64).numpy()
    up = np.full((3, 2, 2), 1.0 + 1.01 * unit)
    moved = tf.cast(tf.cast(tf.constant(up), dtype), tf.float64).numpy()
    for before, after in ((kernel, rounded), (up, moved)):
        change = conv_matrix(after - before, (6,))
        margin = float(gram.rounding_bound(tf.constant(before)[None], dtype)[0])
        assert np.linalg.norm(change, 2) <= margin < 2.2 * np.linalg.norm(change, 2)


def test_products_and_bounds_round_up():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.uniform(0, 2, 3)
        exact = Fraction(values[0]) * Fraction(values[1]) * Fraction(values[2])
        assert Fraction(multiply_up(values)) >= exact
        assert Fraction(round_up(values[0], 0)) > Fraction(values[0])
    assert multiply_up([]) == 1.0
    assert multiply_up([1.0, 0.5, 1.0]) == 0.5
    assert multiply_up([np.inf, 2.0]) == np.inf
