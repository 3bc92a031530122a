"""Functions with derivatives written out against formulas, tapes and central differences."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import difference, jacobians
from tf_iresnet.functions import Affine, Chain, Elementwise, Elu, ScaledSwish, Taped
from tf_iresnet.functions.concatenation import ConcatenatedSwish, Concatenation
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap
from tf_iresnet.functions.sorting import PairSort

_RNG = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(_RNG.standard_normal(shape))


def lipswish(parameters, x):
    return x * tf.sigmoid(tf.math.softplus(parameters[0]) * x) / 1.1


def clipswish(parameters, x):
    both = [lipswish(parameters, x), lipswish(parameters, -x)]
    return tf.concat(both, -1) / 1.004


def concatenated(parameters, x):
    weights, kernel, bias, beta = parameters
    new = clipswish([beta], conv([kernel, bias], x))
    return tf.concat([weights[0] * x, weights[1] * new], -1)


def conv_by_example(parameters, x):
    return tf.nn.conv2d(x, parameters[0], 1, "SAME") + parameters[1][:, None, None]


def dense(parameters, x):
    return tf.matmul(x, parameters[0]) + parameters[1]


def conv(parameters, x):
    return tf.nn.conv2d(x, parameters[0], 1, "SAME") + parameters[1]


def maxmin(parameters, x):
    a, b = x[..., ::2], x[..., 1::2]
    return tf.reshape(tf.stack([tf.maximum(a, b), tf.minimum(a, b)], -1), x.shape)


def elu(parameters, x):
    return tf.where(x > 0, x, tf.exp(tf.minimum(x, 0.0)) - 1)


IMAGE = (3, 2, 2)
NESTED = Chain(
    [
        Taped(lipswish, 1),
        Chain([Affine(DenseMap(4, 3), True), Elu()]),
        Affine(DenseMap(3, 4), False),
    ]
)
# the function, its formula, its parameters, the event shape
CASES = {
    "dense": (Affine(DenseMap(4, 3), True), dense, [normal(4, 3), normal(3)], (4,)),
    "dense without bias": (
        Affine(DenseMap(4, 3), False),
        lambda p, x: tf.matmul(x, p[0]),
        [normal(4, 3)],
        (4,),
    ),
    "conv": (
        Affine(ConvMap((3, 2), (3, 3, 2, 3)), True),
        conv,
        [normal(3, 3, 2, 3), normal(3)],
        IMAGE,
    ),
    "tanh": (Elementwise(tf.tanh), lambda p, x: tf.tanh(x), [], (4,)),
    "identity": (Elementwise(tf.identity), lambda p, x: x, [], (4,)),
    "elu": (Elu(), elu, [], (4,)),
    "constant": (Elementwise(tf.ones_like), lambda p, x: tf.ones_like(x), [], (4,)),
    "lipswish": (ScaledSwish(), lipswish, [tf.constant(0.7, tf.float64)], (4,)),
    "clipswish": (ConcatenatedSwish(), clipswish, [tf.constant(0.7, tf.float64)], IMAGE),
    "concatenation": (
        Concatenation(Chain([Affine(ConvMap((3, 2), (3, 3, 2, 3)), True), ConcatenatedSwish()])),
        concatenated,
        [normal(2), normal(3, 3, 2, 3), normal(3), tf.constant(-0.6, tf.float64)],
        IMAGE,
    ),
    "concatenations": (
        Chain(
            [
                Concatenation(Chain([Affine(DenseMap(4, 3), True), Elu()])),
                Concatenation(ScaledSwish()),
                Affine(DenseMap(14, 4), False),
            ]
        ),
        lambda p, x: tf.matmul(
            (lambda h: tf.concat([p[3][0] * h, p[3][1] * lipswish(p[4:], h)], -1))(
                tf.concat([p[0][0] * x, p[0][1] * elu([], dense(p[1:3], x))], -1)
            ),
            p[5],
        ),
        [
            normal(2),
            normal(4, 3),
            normal(3),
            normal(2),
            tf.constant(0.4, tf.float64),
            normal(14, 4),
        ],
        (4,),
    ),
    "biases by example": (
        Affine(ConvMap((3, 2), (3, 3, 2, 3)), True),
        conv_by_example,
        [normal(3, 3, 2, 3), normal(3, 3)],
        IMAGE,
    ),
    "maxmin": (PairSort(), maxmin, [], IMAGE),
    "dense chain": (
        Chain(
            [
                ScaledSwish(),
                Affine(DenseMap(4, 6), True),
                PairSort(),
                Affine(DenseMap(6, 5), True),
                Elu(),
                Affine(DenseMap(5, 4), False),
            ]
        ),
        lambda p, x: tf.matmul(
            elu([], dense(p[3:5], maxmin([], dense(p[1:3], lipswish(p[:1], x))))), p[5]
        ),
        [
            tf.constant(-0.4, tf.float64),
            normal(4, 6),
            normal(6),
            0.5 * normal(6, 5),
            normal(5),
            normal(5, 4),
        ],
        (4,),
    ),
    "nested chain": (
        NESTED,
        lambda p, x: tf.matmul(elu([], dense(p[1:3], lipswish(p[:1], x))), p[3]),
        [tf.constant(0.3, tf.float64), normal(4, 3), normal(3), normal(3, 4)],
        (4,),
    ),
    "conv chain": (
        Chain([Affine(ConvMap((3, 2), (3, 3, 2, 3)), True), ScaledSwish()]),
        lambda p, x: lipswish(p[2:], conv(p[:2], x)),
        [0.5 * normal(3, 3, 2, 3), normal(3), tf.constant(1.2, tf.float64)],
        IMAGE,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """The function, its formula, its parameters, x, two tangents, two cotangents, an upstream."""
    function, formula, parameters, event = request.param
    rng = np.random.default_rng(1)
    x = tf.constant(rng.standard_normal((3, *event)))
    y_shape = formula(parameters, x).shape
    tangents = [tf.constant(rng.standard_normal(x.shape)) for _ in range(2)]
    cotangents = [tf.constant(rng.standard_normal(y_shape)) for _ in range(3)]
    return function, formula, parameters, x, tangents, cotangents[:2], cotangents[2]


def test_the_value_is_the_formula(case):
    function, formula, parameters, x, *_ = case
    assert function.num_parameters == len(parameters)
    np.testing.assert_allclose(function(parameters, x), formula(parameters, x), atol=1e-13)


@pytest.mark.parametrize("kind", ["written out", "taped"])
def test_products_are_those_of_the_jacobian(case, kind):
    function, formula, parameters, x, (tangent, _), (cotangent, _), _ = case
    function = function if kind == "written out" else Taped(formula, len(parameters))
    jacobian = jacobians(lambda z: formula(parameters, z), x)
    _, residuals = function.linearize(parameters, x)
    forward = function.jvp(parameters, residuals, tangent)[0].numpy().reshape(3, -1)
    backward = function.vjp(parameters, residuals, cotangent).numpy().reshape(3, -1)
    t, c = tangent.numpy().reshape(3, -1), cotangent.numpy().reshape(3, -1)
    np.testing.assert_allclose(forward, np.einsum("bij,bj->bi", jacobian, t), atol=1e-12)
    np.testing.assert_allclose(backward, np.einsum("bij,bi->bj", jacobian, c), atol=1e-12)


def traced(function, parameters, residuals, pairs):
    return [(function.jvp(parameters, residuals, t)[1], c) for t, c in pairs]


@pytest.mark.quick
@pytest.mark.parametrize("number", [0, 1, 2])
def test_gradient_agrees_with_tapes(case, number):
    function, formula, parameters, x, tangents, cotangents, upstream = case
    pairs = list(zip(tangents, cotangents, strict=True))[:number]
    taped = Taped(formula, len(parameters))
    results = []
    for each in (function, taped):
        _, residuals = each.linearize(parameters, x)
        by_x, by_parameters = each.gradient(
            parameters, residuals, upstream, traced(each, parameters, residuals, pairs)
        )
        results.append([by_x, *by_parameters])
    assert len(results[0]) == len(results[1]) == 1 + len(parameters)
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def differentiated(formula, parameters, x, upstream, pairs):
    """<upstream, g> + sum <c, J t>, the product J t by a central difference."""
    step = 3e-4
    total = np.sum(upstream * formula(parameters, x))
    for t, c in pairs:
        rise = formula(parameters, x + step * t) - formula(parameters, x - step * t)
        total += np.sum(c * rise) / (2 * step)
    return total


@pytest.mark.parametrize(
    "kind",
    # What is written out agrees with tapes, too.
    ["written out", pytest.param("taped", marks=pytest.mark.soak)],
)
def test_gradient_agrees_with_differences(case, kind):
    function, formula, parameters, x, tangents, cotangents, upstream = case
    pairs = list(zip(tangents, cotangents, strict=True))
    if kind == "taped":
        function = Taped(formula, len(parameters))
    _, residuals = function.linearize(parameters, x)
    traces = traced(function, parameters, residuals, pairs)
    by_x, by_parameters = function.gradient(parameters, residuals, upstream, traces)
    arguments = [x, *parameters]
    for index, ours in enumerate([by_x, *by_parameters]):

        def total(value, index=index):
            changed = [*arguments[:index], tf.constant(value), *arguments[index + 1 :]]
            return differentiated(formula, changed[1:], changed[0], upstream, pairs)

        expected = difference(total, arguments[index], 3e-4)[0]
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)


def test_taped_works_in_a_loop():
    function, formula, parameters, event = CASES["dense chain"]
    x = tf.constant(np.random.default_rng(1).standard_normal((2, *event)))
    taped = Taped(formula, len(parameters))

    @tf.function
    def power(each, x):
        _, residuals = each.linearize(parameters, x)
        return tf.while_loop(
            lambda k, _: k < 3,
            lambda k, c: (
                k + 1,
                each.vjp(parameters, residuals, each.jvp(parameters, residuals, c)[0]),
            ),
            (0, tf.ones_like(x)),
        )[1]

    np.testing.assert_allclose(power(taped, x), power(function, x), rtol=1e-12)


# The scalar functions' limits far out: slope on the left, slope on the right.
LIMITS = {
    "elu": (Elu(), [], 0.0, 1.0),
    "lipswish": (ScaledSwish(), [1.5], 0.0, 1 / 1.1),
    "softplus": (Elementwise(tf.math.softplus), [], 0.0, 1.0),
    "tanh": (Elementwise(tf.tanh), [], 0.0, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "parameters", "left", "right"), LIMITS.values(), ids=LIMITS.keys()
)
def test_far_out_nothing_overflows(function, parameters, left, right, dtype):
    # 1e25 squared is beyond float32.
    far = np.array([1e3, 1e6, 1e12, 1e25], dtype)
    x = tf.constant(np.concatenate([-far, far])[:, None])
    parameters = [tf.constant(p, dtype) for p in parameters]
    y, residuals = function.linearize(parameters, x)
    ones = tf.ones_like(x)
    slope = np.ravel(function.vjp(parameters, residuals, ones))
    by_x, by_parameters = function.gradient(parameters, residuals, 0 * ones, [(ones, ones)])
    _, through_value = function.gradient(parameters, residuals, ones)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(slope, np.repeat([left, right], 4), atol=1e-6)
    np.testing.assert_allclose(by_x, 0 * x, atol=1e-6)  # the second derivative vanishes
    for gradient in (*by_parameters, *through_value):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_elu_is_smooth_at_zero():
    x = tf.constant([[-1e-12, 0.0, 1e-12]], tf.float64)
    y, residuals = Elu().linearize([], x)
    np.testing.assert_allclose(y, x, atol=1e-15)
    np.testing.assert_allclose(Elu().vjp([], residuals, tf.ones_like(x)), np.ones((1, 3)))


@pytest.mark.parametrize("beta", [-3.0, 0.0, 2.0])
def test_lipswish_is_1_lipschitz(beta):
    x = tf.constant(np.linspace(-100, 100, 20_001)[:, None])
    _, residuals = ScaledSwish().linearize([tf.constant(beta, tf.float64)], x)
    slope = np.abs(ScaledSwish().vjp([tf.constant(beta, tf.float64)], residuals, tf.ones_like(x)))
    # The steepest slope of x sigmoid(b x) is 1.09984 for every b > 0.
    assert 0.999 * 1.09984 / 1.1 < slope.max() <= 1.0


def test_maxmin_keeps_ties_and_norms():
    x = tf.constant([[1.0, 1.0, 2.0, 3.0]])
    y, residuals = PairSort().linearize([], x)
    assert y.numpy().tolist() == [[1.0, 1.0, 3.0, 2.0]]
    assert PairSort().vjp([], residuals, y).numpy().tolist() == x.numpy().tolist()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_maxmin_sorts_numbers_of_every_width_and_tapes_see_it(dtype, jit):
    x = tf.cast([[2.0, 5.0, 4.0, 3.0], [-0.0, 1e-3, -7.0, -7.0]], dtype)
    weights = tf.cast([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], dtype)

    @tf.function(jit_compile=jit)
    def derivatives(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y, _ = PairSort().linearize([], x)
                total = tf.reduce_sum(weights * y * y)
            gradient = inner.gradient(total, x)
        return y, gradient, outer.gradient(gradient, x)

    y, gradient, curvature = (tf.cast(t, tf.float64).numpy() for t in derivatives(x))
    moved = np.array([[2.0, 1.0, 3.0, 4.0], [6.0, 5.0, 7.0, 8.0]])
    wide = tf.cast(x, tf.float64).numpy()
    np.testing.assert_array_equal(y, np.sort(wide.reshape(2, 2, 2))[..., ::-1].reshape(2, 4))
    np.testing.assert_allclose(gradient, 2 * moved * wide, rtol=1e-2)
    np.testing.assert_array_equal(curvature, 2 * moved)
