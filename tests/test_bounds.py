"""Proven bounds against the singular values of operators written out by scipy."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from kernels import operators, trained
from reference import conv_matrix

from tf_iresnet.bounds import banded, gram
from tf_iresnet.bounds.banded import banded_norm_bound
from tf_iresnet.bounds.dense import dense_norm_bound, product_up, rounded_up
from tf_iresnet.bounds.symbol import Grid, sized_grid, symbol_bound, torus_grid
from tf_iresnet.linear_maps import map_for_kernel
from tf_iresnet.norms import conv_norm_bound


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


@pytest.mark.slow
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


def test_the_differentiable_bound_is_never_below_the_norm():
    for kernel, sizes, padding in operators(60, 100):
        linear_map = map_for_kernel(kernel.shape, sizes, padding)
        truth = norm(kernel, sizes, padding)
        bound = float(gram.norm_bound(linear_map, tf.constant(kernel)))
        assert truth <= bound <= conv_norm_bound(kernel) * 1.01, (kernel.shape, sizes, padding)
    for shape in ((1, 1), (3, 7), (8, 2), (5, 5)):
        kernel = np.random.default_rng(0).standard_normal(shape)
        truth = np.linalg.norm(kernel, 2)
        assert truth <= gram.norm_bound(map_for_kernel(shape, None), kernel) <= truth * 1.001
    stencil = np.reshape([1.0, 2.0, 1.0], (3, 1, 1))  # by the best shift
    truth = 2 + 2 * np.cos(np.pi / 6)
    assert truth <= gram.norm_bound(map_for_kernel((3, 1, 1), (5,)), stencil) <= truth * 1.001
    equal = np.eye(7)  # as loose as it can be
    assert 1 <= gram.norm_bound(map_for_kernel((7, 7), None), equal) <= 7 ** (1 / 1024) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((4, 3), None), ((3, 2, 3), (6,)), ((3, 2, 3, 2), (4, 5))]
)
def test_the_differentiable_bound_s_gradient(shape, sizes):
    linear_map = map_for_kernel(shape, sizes)
    kernel = np.random.default_rng(0).standard_normal(shape)
    variable = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        bound = gram.norm_bound(linear_map, variable)
        bound += 100 * gram.rounding_bound(variable, "float32", "bfloat16")
    direction = np.random.default_rng(1).standard_normal(shape)

    def value(kernel):
        kernel = tf.constant(kernel)
        return float(
            gram.norm_bound(linear_map, kernel)
            + 100 * gram.rounding_bound(kernel, "float32", "bfloat16")
        )

    expected = (value(kernel + 1e-6 * direction) - value(kernel - 1e-6 * direction)) / 2e-6
    found = np.sum(tape.gradient(bound, variable) * direction)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with tf.GradientTape() as tape:
        zeros = tf.Variable(tf.zeros(shape))
        bound = gram.norm_bound(linear_map, zeros)
    assert 0 <= bound < 1e-100
    assert np.isfinite(tape.gradient(bound, zeros)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_margin_for_rounding_holds(dtype):
    """Taps just below the middle between two numbers of the dtype, all rounded the same way."""
    unit = float(gram._ROUNDINGS[dtype][0])
    kernel = np.full((3, 2, 2), 1.0 + 0.99 * unit)
    rounded = tf.cast(tf.cast(tf.constant(kernel), dtype), tf.float64).numpy()
    up = np.full((3, 2, 2), 1.0 + 1.01 * unit)
    moved = tf.cast(tf.cast(tf.constant(up), dtype), tf.float64).numpy()
    for before, after in ((kernel, rounded), (up, moved)):
        change = conv_matrix(after - before, (6,))
        margin = float(gram.rounding_bound(tf.constant(before), dtype))
        assert np.linalg.norm(change, 2) <= margin < 2.2 * np.linalg.norm(change, 2)


def test_products_and_bounds_round_up():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.uniform(0, 2, 3)
        exact = Fraction(values[0]) * Fraction(values[1]) * Fraction(values[2])
        assert Fraction(product_up(values)) >= exact
        assert Fraction(rounded_up(values[0], 0)) > Fraction(values[0])
    assert product_up([]) == 1.0
    assert product_up([1.0, 0.5, 1.0]) == 0.5
    assert product_up([np.inf, 2.0]) == np.inf
