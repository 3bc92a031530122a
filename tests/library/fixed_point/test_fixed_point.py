"""Fixed-point inverses, their bookkeeping and the gradient through them."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import DenseBranch, difference
from tf_iresnet.fixed_point import Anderson, ConvergenceError, FixedPointResult, Picard, invert

DTYPES = ["float32", "float64"]
every = pytest.mark.parametrize("make", [Picard, Anderson])


def picard(g, y, tolerance, max_steps=1000):
    """Algorithm 1 for one example in numpy: the iterate, evaluations of g, the residual."""
    x = y
    for step in range(1, max_steps + 1):
        rms = np.sqrt(np.mean((x + g(x) - y) ** 2))
        if rms <= tolerance:
            return x, step, rms
        x = y - g(x)
    raise AssertionError("no convergence")


def rows(seed, batch, size=3):
    return np.random.default_rng(seed).standard_normal((batch, size))


@pytest.mark.quick
@every
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_solvers_invert(make, batch, dtype):
    branch = DenseBranch(0)
    parameters = [tf.cast(p, dtype) for p in branch.parameters]
    x = tf.constant(rows(1, batch), dtype)
    y = x + branch.plain(parameters, x)
    result = invert(branch.function, parameters, y, make())
    assert result.x.dtype == dtype
    assert result.converged.numpy().all()
    np.testing.assert_allclose(result.x, x, atol=50 * np.finfo(dtype).eps)
    at, wide = tf.cast(result.x, "float64"), [tf.cast(p, "float64") for p in parameters]
    residual = at + branch.plain(wide, at) - tf.cast(y, "float64")
    rms = np.sqrt(np.mean(np.square(residual), axis=1))
    # The solver's own is known up to the roundings of its two sums.
    rounding = 2 * np.spacing(np.abs(y).max())
    np.testing.assert_allclose(result.residual, rms, atol=rounding)


@pytest.mark.quick
def test_steps_and_residual_are_those_of_the_algorithm():
    slopes = np.array([[0.9], [0.5], [0.0], [-0.7]])
    y = rows(2, 4)
    result = Picard(atol=1e-6, rtol=0.0).solve(lambda x: slopes * tf.sin(x), tf.constant(y))
    for i in range(4):
        x, steps, residual = picard(lambda z, s=slopes[i]: s * np.sin(z), y[i], 1e-6)
        np.testing.assert_allclose(result.x[i], x, rtol=1e-14)
        assert int(result.steps[i]) == steps
        np.testing.assert_allclose(result.residual[i], residual, rtol=1e-6, atol=1e-15)


@every
def test_an_example_does_not_depend_on_its_batch(make):
    branch = DenseBranch(1)
    y = rows(3, 7) * np.logspace(-3, 3, 7)[:, None]
    whole = invert(branch.function, branch.parameters, tf.constant(y), make(rtol=1e-9))
    assert len(set(whole.steps.numpy())) > 1
    for i in range(7):
        alone = invert(
            branch.function, branch.parameters, tf.constant(y[i : i + 1]), make(rtol=1e-9)
        )
        assert int(alone.steps[0]) == int(whole.steps[i])
        np.testing.assert_allclose(alone.x[0], whole.x[i], rtol=1e-14)


@every
def test_a_spoilt_example_leaves_the_others_alone(make):
    branch = DenseBranch(1)
    y = rows(3, 3)
    good = invert(branch.function, branch.parameters, tf.constant(y), make())
    y[1] = np.nan
    result = invert(branch.function, branch.parameters, tf.constant(y), make())
    assert result.converged.numpy().tolist() == [True, False, True]
    assert result.steps[1] == 1
    np.testing.assert_array_equal(result.x.numpy()[::2], good.x.numpy()[::2])


@pytest.mark.parametrize("atol", [1e-2, 1e-5])
@pytest.mark.parametrize("rtol", [0.0, 1e-3])
def test_the_tolerance_is_atol_plus_rtol_times_rms(atol, rtol):
    y = rows(4, 6) * np.array([[1e-3, 1e-2, 1e-1, 1, 10, 100]]).T
    result = Picard(atol=atol, rtol=rtol).solve(lambda x: 0.9 * tf.tanh(x), tf.constant(y))
    tolerance = atol + rtol * np.sqrt(np.mean(y**2, axis=1))
    assert (result.residual <= tolerance).numpy().all()
    for i in range(6):
        steps = picard(lambda x: 0.9 * np.tanh(x), y[i], tolerance[i])[1]
        assert int(result.steps[i]) == steps


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_tolerance_is_a_few_units_in_the_last_place(make, dtype):
    y = tf.constant([[3.0, 4.0]], dtype)
    expected = 4 * np.finfo(dtype).eps * (1 + math.sqrt(12.5))
    np.testing.assert_allclose(make().tolerance(y), [expected], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_goes_on_to_rounding(dtype):
    """The contraction is so slow that the tolerance alone leaves ten times the error."""
    y = tf.constant(rows(7, 5), dtype)
    unit = np.finfo(dtype).eps
    x = Picard().solve(lambda x: 0.7 * x, y)
    assert x.converged.numpy().all()
    error = np.abs(x.x.numpy().astype(float) * 1.7 - y.numpy().astype(float)).max()
    assert error <= 2.5 * unit * np.abs(y).max()
    given = Picard(atol=4 * unit, rtol=4 * unit).solve(lambda x: 0.7 * x, y)
    assert (given.steps < x.steps).numpy().all()


@every
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_are_solved_not_waved_through(make, scale):
    y = tf.constant([[scale, -scale]], tf.float32)
    result = make(atol=0.0).solve(lambda x: 0.5 * x, y)
    np.testing.assert_allclose(result.checked() * 1.5, y, rtol=1e-5)


def test_what_does_not_converge_raises():
    result = Picard(max_steps=3).solve(lambda x: 0.9 * x, tf.constant([[1.0], [0.0]]))
    assert result.converged.numpy().tolist() == [False, True]
    assert result.steps.numpy().tolist() == [3, 1]
    words = r"1 of 2 examples.*residual 0\.729 after 3 steps\. Too steep\. .*max_steps"
    with pytest.raises(ConvergenceError, match=words):
        result.checked(lambda: "Too steep. ")


@every
def test_what_converged_does_not_raise_in_float64(make):
    y = tf.constant([[1.0]], tf.float64)
    result = make().solve(lambda x: 0.5 * x, y)
    np.testing.assert_allclose(result.checked(), [[2 / 3]])
    with pytest.raises(ConvergenceError):
        make(max_steps=2).solve(lambda x: 0.5 * x, y).checked()


@pytest.mark.parametrize("slope", [-1.0, 1.5, 1e20])
def test_a_divergent_branch_says_so(slope):
    y = tf.constant([[1.0, 2.0]])
    result = Picard().solve(lambda x: slope * x, y)
    assert not result.converged.numpy().any()
    with pytest.raises(ConvergenceError, match="did not converge"):
        result.checked()


def test_a_branch_that_wanders_is_given_up_early():
    y = tf.constant(rows(0, 4, 500), tf.float32)
    solver = Picard(max_steps=10_000)
    result = tf.function(lambda y: solver.solve(lambda x: 3 * tf.sin(5 * x), y), autograph=False)(y)
    assert not result.converged.numpy().any()
    assert result.steps.numpy().max() < 1000


def test_a_slow_contraction_is_not_given_up():
    y = tf.constant(rows(0, 2), tf.float64)
    rate, atol = 0.9995, 1e-3
    solver = Picard(max_steps=100_000, atol=atol, rtol=0.0)
    result = tf.function(lambda y: solver.solve(lambda x: -rate * x, y), autograph=False)(y)
    assert result.converged.numpy().all()
    assert result.steps.numpy().min() > 10_000
    np.testing.assert_allclose(result.x * (1 - rate), y, atol=2 * atol)


def test_in_graphs_what_does_not_converge_is_nan():
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def solve(y):
        result = Picard(max_steps=3).solve(lambda x: 0.9 * x, y)
        assert result.x.shape.as_list() == [None, 2]
        return result.checked()

    x = solve(tf.constant([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])).numpy()
    assert np.isnan(x).all(axis=1).tolist() == [True, False, True]
    assert x[1].tolist() == [0.0, 0.0]


@every
@pytest.mark.parametrize("batch", [1, 3])
def test_the_graph_agrees_with_eager_code(make, batch):
    branch = DenseBranch(0)
    solver = make(atol=1e-12, rtol=1e-12)  # rounding decides nothing
    graph = tf.function(
        lambda y: invert(branch.function, branch.parameters, y, solver),
        input_signature=[tf.TensorSpec([None, 3], tf.float64)],
    )
    y = tf.constant(rows(5, batch))
    eager = invert(branch.function, branch.parameters, y, solver)
    for ours, theirs in zip(graph(y), eager, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@every
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_gradients_agree_with_differences(make, scale):
    branch = DenseBranch(2)
    weights = scale * np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-1.0, 0.3, 2.0]])
    arguments = [tf.constant(rows(6, 3)), *branch.parameters]

    @tf.function
    def loss(arguments):
        x = invert(branch.function, arguments[1:], arguments[0], make()).x
        return tf.reduce_sum(weights * x)

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = loss(arguments)
    gradients = tape.gradient(value, arguments)
    assert np.abs(gradients[0].numpy()).max() > 0.1 * scale
    for index, gradient in enumerate(gradients):

        def changed(argument, index=index):
            new = [*arguments[:index], tf.constant(argument), *arguments[index + 1 :]]
            return loss(new).numpy() / scale

        expected = scale * difference(changed, arguments[index], 1e-5)[0]
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-8 * scale)


@every
def test_float32_gradients_do_not_depend_on_their_scale(make):
    branch = DenseBranch(2)
    parameters = [tf.cast(p, tf.float32) for p in branch.parameters]
    y = tf.constant(rows(6, 3), tf.float32)
    gradients = []
    for scale in (1.0, 2.0**-40):
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = scale * tf.reduce_sum(invert(branch.function, parameters, y, make()).x)
        gradients.append(tape.gradient(loss, y) / scale)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-6)


@every
def test_a_gradient_that_does_not_converge_raises(make):
    branch = DenseBranch(2)
    y = tf.constant(rows(6, 2))
    with tf.GradientTape() as tape:
        tape.watch(y)
        loss = tf.reduce_sum(invert(branch.function, branch.parameters, y, make(max_steps=2)).x)
    with pytest.raises(ConvergenceError, match="inverse's gradient has no point"):
        tape.gradient(loss, y)


@every
def test_the_gradient_keeps_no_iterates(make):
    branch = DenseBranch(0)

    @tf.function
    def gradient(y):
        with tf.GradientTape() as tape:
            tape.watch([y, *branch.parameters])
            loss = tf.reduce_sum(invert(branch.function, branch.parameters, y, make()).x)
        return tape.gradient(loss, [y, *branch.parameters])

    graph = gradient.get_concrete_function(tf.TensorSpec([None, 3], tf.float64)).graph
    text = str(graph.as_graph_def())
    assert "While" in text
    assert "TensorListPushBack" not in text  # how a loop saves what its gradient needs


def test_results_of_a_composition():
    def result(x, steps, residual, converged):
        return FixedPointResult(*map(tf.constant, (x, steps, residual, converged)))

    last = result([[1.0], [2.0]], [3, 4], [0.1, 0.2], [True, False])
    first = result([[5.0], [6.0]], [10, 20], [0.3, 0.05], [True, True])
    both = last.then(first)
    assert both.x.numpy().tolist() == [[5.0], [6.0]]
    assert both.steps.numpy().tolist() == [13, 24]
    np.testing.assert_allclose(both.residual, [0.3, 0.2])
    assert both.converged.numpy().tolist() == [True, False]
    exact = FixedPointResult.exact(tf.constant([[7.0], [8.0]]))
    assert last.then(exact).steps.numpy().tolist() == [3, 4]
    assert exact.converged.numpy().all()


@pytest.mark.parametrize(
    "arguments",
    [{"max_steps": 0}, {"max_steps": 2.5}, {"atol": -1.0}, {"atol": math.nan}, {"rtol": math.inf}],
)
@every
def test_bad_arguments_are_named(make, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=rf"{name} must be.*{value}"):
        make(**arguments)


def test_the_configuration_round_trips():
    solver = Picard(max_steps=7, atol=1e-3, rtol=0.0)
    again = Picard.from_config(solver.get_config())
    assert repr(again) == repr(solver) == "Picard(max_steps=7, atol=0.001, rtol=0.0)"
