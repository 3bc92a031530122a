"""Gradients through inverses of layers, models and bijectors, against dense solves."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.bijectors.bijector_cases import exact
from tests.library.reference import rows_at_once
from tests.library.registry import CASES, inputs, make
from tf_iresnet.fixed_point import Anderson, ConvergenceError, Picard
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential


def set_solver(layer, solver):
    for part in layer._flatten_layers():
        if isinstance(part, InvertibleResidual):
            part.solver = solver


def through_inverse(inverse, y, variables, weights):
    """The gradients of <weights, inverse(y)> by y and the variables."""
    with tf.GradientTape() as tape:
        tape.watch(y)
        value = tf.reduce_sum(weights * inverse(y))
    return tape.gradient(value, [y, *variables])


def by_dense_solve(forward, x, variables, weights):
    """The same by each example's dense Jacobian: l = J^-T w, and -<l, forward(x)> by weights."""
    jacobian = rows_at_once(forward, x).numpy()
    flat = np.reshape(weights, (len(x), -1))
    pulled = np.linalg.solve(jacobian.transpose(0, 2, 1), flat[..., None])[..., 0]
    with tf.GradientTape() as tape:
        y = forward(tf.constant(x))
        value = -tf.reduce_sum(pulled.reshape(y.shape) * y)
    return [pulled.reshape(y.shape), *tape.gradient(value, variables)]


def assert_close(gradients, truth):
    for mine, theirs in zip(gradients, truth, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            mine, theirs = np.asarray(mine), np.asarray(theirs)
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * np.abs(theirs).max())


NAMES = ("dense", "dense maxmin", "conv 1-D", "conv 2-D", "own branch", "sequential", "multi-scale")
REST = set(CASES) - set(NAMES)


@pytest.mark.parametrize(
    "name", [*NAMES, *(pytest.param(name, marks=pytest.mark.soak) for name in sorted(REST))]
)
def test_of_layers(name, request):
    layer = make(name, "float64")
    set_solver(layer, Anderson())
    request.addfinalizer(lambda: set_solver(layer, Picard()))
    y = tf.constant(layer(inputs(name, 2, "float64")))
    weights = inputs(name, 2, "float64", seed=7)
    variables = layer.trainable_variables
    gradients = through_inverse(layer.inverse, y, variables, weights)
    x = layer.inverse(y).numpy()
    assert_close(gradients, by_dense_solve(layer.forward, x, variables, weights))
    assert all(np.any(g) for g in gradients)


def test_of_a_flow():
    flow = small.flow(dtype="float64", coeff=0.97)
    x = small.pixels(2).astype("float64")
    flow.adapt(x)
    rng = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        variable.assign_add(0.3 * rng.standard_normal(variable.shape))
    flow.flow.converge_spectral_state()
    z = flow.encode(x)
    variables = flow.flow.trainable_variables
    weights = rng.standard_normal(x.shape)
    gradients = through_inverse(flow.decode, z, variables, weights)
    truth = by_dense_solve(flow.encode, flow.decode(z).numpy(), variables, weights)
    assert_close(gradients, truth)


@pytest.mark.parametrize("graph", [False, True])
def test_of_a_bijector_against_differences(graph):
    bijector = exact(dtype="float64")
    y = tf.constant(np.random.default_rng(1).standard_normal((2, 3, 5)))
    weights = np.random.default_rng(2).standard_normal((2, 3, 5))
    variables = bijector.trainable_variables
    assert variables

    def value(y):
        return tf.reduce_sum(weights * bijector.inverse(tf.identity(y)))

    def gradient(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            total = value(y)
        return tape.gradient(total, [y, *variables])

    gradients = (tf.function(gradient) if graph else gradient)(y)
    step = 1e-6
    for variable, mine in zip([None, *variables], gradients, strict=True):
        along = np.random.default_rng(3).standard_normal(mine.shape)
        values = []
        for shift in (step, -step):
            if variable is None:
                values.append(value(y + shift * along))
                continue
            old = variable.numpy()
            variable.assign(old + shift * along)
            values.append(value(y))
            variable.assign(old)
        difference = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(mine * along), difference, rtol=1e-6, atol=1e-8)


def test_keep_no_iterates():
    """No loop saves what its steps compute: memory does not grow with their number."""
    block = make("conv 2-D")

    @tf.function(input_signature=[tf.TensorSpec([None, *CASES["conv 2-D"].event])])
    def gradient(y):
        return through_inverse(block.inverse, y, block.trainable_variables, 1.0)

    set_solver(block, Anderson())
    text = str(gradient.get_concrete_function().graph.as_graph_def())
    set_solver(block, Picard())
    assert text.count("While") >= 2
    assert "TensorListPushBack" not in text


class Faint(Anderson):
    """Solves to rounding, but gives the linear problem of the gradient two steps only."""

    solves = 0

    def solve(self, g, y, start=None):
        self.solves += 1
        return super().solve(g, y, start) if self.solves == 1 else Picard(2).solve(g, y, start)


@pytest.mark.parametrize("graph", [False, True])
def test_failure_is_never_silent(graph):
    """The inverse is found, the linear solve of its gradient is not."""
    block = InvertibleResidual(hidden=6, coeff=0.97, solver=Faint(), dtype="float64")
    flow = InvertibleSequential([block])
    y = tf.constant(inputs("dense", 3, "float64"))
    flow.build(y.shape)

    def gradient(y):
        return through_inverse(flow.inverse, y, flow.trainable_variables, 1.0)

    if graph:
        gradients = tf.function(gradient)(y)
        assert all(np.isnan(g).all() for g in gradients)
    else:
        with pytest.raises(ConvergenceError, match="linear solve of the inverse's gradient"):
            gradient(y)
