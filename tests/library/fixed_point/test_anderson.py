"""Anderson mixing: what it saves, where it falls back, and how it is saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tests.library.reference import DenseBranch
from tests.library.registry import CASES, inputs, make, representatives
from tf_iresnet.fixed_point import Anderson, ConvergenceError, Picard, invert
from tf_iresnet.layers import InvertibleResidual

BLOCKS = [n for n in CASES if isinstance(make(n), InvertibleResidual)]


def solve(block, y, solver):
    function, parameters = block._function(block.variable_dtype)
    return invert(function, parameters, y, solver)  # eager: tracing would take longer


@pytest.mark.parametrize("name", representatives(BLOCKS))
def test_never_more_than_two_evaluations_above_picard(name):
    block = make(name, "float64")
    y = block.forward(tf.constant(inputs(name, 16, "float64")))
    picard, anderson = (solve(block, y, solver) for solver in (Picard(), Anderson()))
    assert (anderson.steps <= picard.steps + 2).numpy().all()
    assert anderson.converged.numpy().all()
    # To rounding, both: differences of a unit or two in the last place decide nothing.
    assert (anderson.residual <= 2 * picard.residual + 4e-16).numpy().all()
    # The residual is that of the x returned.
    residual = block.forward(anderson.x) - y
    rms = np.sqrt(np.mean(np.square(residual), axis=tuple(range(1, residual.ndim))))
    np.testing.assert_allclose(anderson.residual, rms, rtol=0, atol=4e-16)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.soak), "float64"])
def test_a_third_of_the_evaluations_where_picard_is_slow(sign, dtype):
    """A nearly isometric branch, as training at coeff 0.99 wants it: rate 0.85 and more."""
    rng = np.random.default_rng(0)
    block = InvertibleResidual(
        hidden=8, kernel_sizes=(3, 3), coeff=0.99, activation="elu", input_activation=False,
        dtype=dtype,
    )  # fmt: skip
    block.build((None, 6, 6, 2))
    first, last = (part for part in block.branch.parts if hasattr(part, "kernel"))
    kernel = rng.standard_normal(first.kernel.shape)
    first.kernel.assign(5 * kernel)
    last.kernel.assign(5 * sign * kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    first.bias.assign(np.full(8, 2.0))
    block.converge_spectral_state()
    y = tf.constant(rng.standard_normal((4, 6, 6, 2)), dtype)
    tolerance = {"atol": 0.0, "rtol": 1e-5}
    picard, anderson = (solve(block, y, s(**tolerance)) for s in (Picard, Anderson))
    assert picard.converged.numpy().all()
    assert anderson.converged.numpy().all()
    rate = (1e-5) ** (1 / tf.reduce_mean(tf.cast(picard.steps, dtype)).numpy())
    assert rate >= 0.85
    assert (3 * anderson.steps <= picard.steps).numpy().all()


def test_a_linear_branch_takes_as_many_steps_as_gmres():
    """With full memory: scipy's least residuals, one matrix product an iteration."""
    rng = np.random.default_rng(1)
    j = rng.standard_normal((8, 8))
    j *= 0.9 / np.linalg.norm(j, 2)
    y = rng.standard_normal(8)
    residuals = [np.linalg.norm(j @ y)]  # at the start, x = y
    sparse.linalg.gmres(
        np.eye(8) + j, y, x0=y, rtol=1e-9, atol=0.0, restart=8, maxiter=1,
        callback=lambda r: residuals.append(r * np.linalg.norm(y)), callback_type="pr_norm",
    )  # fmt: skip
    for steps in range(1, 8):
        solver = Anderson(max_steps=steps, atol=0.0, rtol=1e-9, memory=8)
        result = solver.solve(lambda x: tf.matmul(x, j.T), tf.constant(y[None]))
        # x_{i+1} is a Picard step after the least residual, which g shrinks at most to 0.9.
        if steps > 1:
            assert result.residual[0] * np.sqrt(8) <= 0.9 * residuals[steps - 2] * (1 + 1e-6)
    done = Anderson(memory=8, atol=0.0, rtol=1e-12).solve(
        lambda x: tf.matmul(x, j.T), tf.constant(y[None])
    )
    assert done.steps[0] <= 11
    np.testing.assert_allclose(done.x[0], np.linalg.solve(np.eye(8) + j, y), rtol=1e-9)


def test_a_step_that_does_not_help_is_taken_back():
    """Kinks make the linear model wrong: steps overshoot, and the residual still falls."""
    y = tf.constant(np.random.default_rng(3).uniform(-3, 3, (64, 3)))

    def g(x):
        return 0.7 * tf.abs(tf.roll(x, 1, -1)) - 0.2 * tf.sin(40 * x) / 40

    picard, anderson = (s.solve(g, y) for s in (Picard(), Anderson()))
    assert anderson.converged.numpy().all()
    assert (anderson.steps <= picard.steps + 6).numpy().all()
    np.testing.assert_allclose(anderson.x, picard.x, atol=1e-12)


def test_examples_that_fail_still_go_on_by_picard():
    """A branch whose value jumps about at random misleads every model of it."""
    noise = tf.constant(np.random.default_rng(0).standard_normal((1, 4)))

    def g(x):  # a contraction, and rough at every scale
        return 0.5 * x + 0.1 * tf.sin(1e6 * x) * 1e-6 + noise

    y = tf.constant(np.random.default_rng(1).standard_normal((8, 4)))
    tolerance = {"atol": 1e-13, "rtol": 0.0}
    picard, anderson = (s(**tolerance).solve(g, y) for s in (Picard, Anderson))
    assert anderson.converged.numpy().all()
    assert (anderson.steps <= picard.steps + 8).numpy().all()


def test_differences_that_depend_on_each_other_do_no_harm():
    """One dimension in many copies: after one step all further differences are parallel."""
    y = tf.repeat(tf.constant([[1.0], [2.0], [0.0]]), 6, axis=1)
    result = Anderson(memory=5).solve(lambda x: 0.9 * tf.tanh(x), y)
    assert result.converged.numpy().all()
    assert np.isfinite(result.x).all()
    picard = Picard().solve(lambda x: 0.9 * tf.tanh(x), y)
    np.testing.assert_allclose(result.x, picard.x, atol=1e-6)
    assert (result.steps <= picard.steps).numpy().all()


def test_an_overflow_on_trial_is_taken_back():
    """Where extrapolation leaves a branch's domain, the Picard step is still there."""
    y = tf.constant([[0.2], [1.0]], tf.float64)

    def g(x):  # decreases gently up to 1.2, NaN where an extrapolated step lands
        return tf.where(x < 1.2, -0.9 * tf.math.log1p(tf.square(x)) / 2, np.nan)

    picard, anderson = (s.solve(g, y) for s in (Picard(), Anderson()))
    np.testing.assert_array_equal(anderson.converged, picard.converged)


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
class TestStart:
    branch = DenseBranch(0)

    def solved(self, solver, start):
        y = tf.constant(np.random.default_rng(2).standard_normal((4, 3)))
        return invert(self.branch.function, self.branch.parameters, y, solver, start), y

    def test_near_the_solution_saves_steps(self, solver):
        cold, _ = self.solved(solver, None)
        warm, _ = self.solved(solver, cold.x + 1e-9)
        assert (warm.steps < cold.steps).numpy().all()
        np.testing.assert_allclose(warm.x, cold.x, atol=1e-14)
        exact, _ = self.solved(solver, cold.x)
        assert (exact.steps <= 6).numpy().all()

    def test_has_the_shape_of_y(self, solver):
        for shape in ((4, 2), (3, 3), (4,)):
            with pytest.raises(ValueError, match=r"start must have the shape of y, \(4, 3\), got"):
                self.solved(solver, np.zeros(shape))

    def test_far_away_is_no_matter(self, solver):
        far, _ = self.solved(solver, np.full((4, 3), 50.0))
        np.testing.assert_allclose(far.x, self.solved(solver, None)[0].x, atol=1e-13)

    def test_gradient_is_that_of_the_solution(self, solver):
        y = tf.constant(np.random.default_rng(2).standard_normal((4, 3)))
        gradients = []
        for start in (None, tf.ones_like(y)):
            with tf.GradientTape() as tape:
                tape.watch(y)
                x = invert(self.branch.function, self.branch.parameters, y, solver, start).x
                loss = tf.reduce_sum(x**2)
            gradients.append(tape.gradient(loss, y))
        np.testing.assert_allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize("make_solver", [Picard, Anderson])
def test_a_tolerance_below_the_dtype_is_given_up_early_and_explained(make_solver):
    solver = make_solver(atol=1e-12, rtol=0.0)
    y = np.random.default_rng(6).standard_normal((2, 40)) * [[1.0], [0.0]]

    def g(x):
        return 0.3 * tf.sin(3 * tf.roll(x, 1, -1))

    result = solver.solve(g, tf.constant(y, tf.float32))
    assert result.converged.numpy().tolist() == [False, True]
    assert result.steps[0] < 500
    with pytest.raises(ConvergenceError, match=r"float32 resolves no more.*atol or rtol.*float64"):
        result.checked()
    wide = solver.solve(g, tf.constant(y))
    assert wide.converged.numpy().all()


@pytest.mark.parametrize("memory", [0, -1, 1.5, True])
def test_a_memory_of_less_than_one_is_refused(memory):
    with pytest.raises(ValueError, match=rf"memory must be an integer of at least 1, got {memory}"):
        Anderson(memory=memory)


@pytest.mark.parametrize("memory", [1, 2, 30])
def test_any_memory_solves(memory):
    branch, y = DenseBranch(3), tf.constant(np.random.default_rng(4).standard_normal((5, 3)))
    result = invert(branch.function, branch.parameters, y, Anderson(memory=memory))
    np.testing.assert_allclose(result.x + branch.plain(branch.parameters, result.x), y, atol=1e-15)


def test_an_empty_batch_is_solved_without_evaluations():
    result = Anderson().solve(lambda x: 0.5 * x, tf.zeros([0, 4, 3]))
    assert result.x.shape == (0, 4, 3)
    assert result.steps.shape == (0,)


@pytest.mark.soak  # `test_compiled` does so in float32, with its bound and its gradient
def test_compiled_by_xla():
    branch, y = DenseBranch(0), tf.constant(np.random.default_rng(5).standard_normal((3, 3)))
    compiled = tf.function(
        lambda y: invert(branch.function, branch.parameters, y, Anderson()), jit_compile=True
    )
    np.testing.assert_allclose(
        compiled(y).x, invert(branch.function, branch.parameters, y, Anderson()).x, atol=1e-14
    )


def test_a_block_keeps_its_solver(tmp_path):
    solver = Anderson(max_steps=70, atol=1e-3, rtol=0.5, memory=3)
    model = keras.Sequential([keras.Input((2,)), InvertibleResidual(hidden=3, solver=solver)])
    model.save(tmp_path / "model.keras")
    (restored,) = keras.saving.load_model(tmp_path / "model.keras").layers
    assert isinstance(restored.solver, Anderson)
    assert repr(restored.solver) == "Anderson(max_steps=70, atol=0.001, rtol=0.5, memory=3)"


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_graphs_of_few_entries(size):
    slopes = np.linspace(-0.9, 0.8, size)
    y = np.random.default_rng(0).standard_normal((4, size))
    solve = tf.function(lambda y: Anderson().solve(lambda x: x * slopes, y))
    result = solve(tf.constant(y))
    assert result.converged.numpy().all()
    np.testing.assert_allclose(result.x, y / (1 + slopes), rtol=1e-9)
