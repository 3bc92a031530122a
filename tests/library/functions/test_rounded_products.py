"""The inverse where a device rounds the operands of float32 products (TF32), by emulation."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.emulation import TensorFloat32, to_eleven_bits
from tests.library.extended_precision import Plain, preimage
from tests.library.registry import inputs, make, randomize
from tf_iresnet.fixed_point import Anderson, ConvergenceError, Picard
from tf_iresnet.functions import Affine
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap
from tf_iresnet.functions.rounded_products import Unrounded, are_rounded, split
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.layers.upkeep import frozen


def normal(seed, *shape):
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_parts_add_up_and_survive_rounding(scale):
    x = scale * normal(0, 1000)
    high, low = split(x)
    np.testing.assert_array_equal(high.numpy().astype(float) + low.numpy().astype(float), x)
    np.testing.assert_array_equal(to_eleven_bits(high), high)
    assert (np.abs(low) <= 2.0**-11 * np.abs(x)).all()


MAPS = [
    DenseMap(40, 30),
    ConvMap((9,), (3, 4, 5)),
    ConvMap((6, 5), (3, 3, 20, 2)),  # by rows of its kernel
    ConvMap((6, 5), (3, 3, 4, 20)),
]


@pytest.mark.parametrize("linear_map", MAPS, ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
def test_split_products_are_those_of_float32(device, linear_map, adjoint):
    shape = getattr(linear_map, "kernel_shape", (40, 30))
    kernel = normal(0, *shape)
    x = normal(1, 3, *(linear_map.output_shape if adjoint else linear_map.input_shape))
    name = "adjoint" if adjoint else "apply"
    wide = getattr(linear_map, name)(tf.cast(kernel, tf.float64), tf.cast(x, tf.float64))
    size = np.abs(wide).max()
    errors = [
        np.abs(getattr(way, name)(kernel, x).numpy() - wide.numpy()).max() / size
        for way in (linear_map, Unrounded(linear_map))
    ]
    assert errors[0] > 5e-5  # or the emulation rounds nothing
    assert errors[1] < 2e-6


def test_the_device_is_asked_when_the_graph_runs(tmp_path):
    device = TensorFloat32()
    with device.installed():
        graph = tf.function(are_rounded, input_signature=[tf.TensorSpec([None, 2])])
        module = tf.Module()
        module.asked, module.switch = graph, device.switch
        tf.saved_model.save(module, tmp_path / "1")
        eager = are_rounded
        loaded = tf.saved_model.load(tmp_path / "1")
        ways = [(eager, device.switch), (graph, device.switch), (loaded.asked, loaded.switch)]
        for ask, switch in ways:
            for rounded in (True, False):
                switch.assign(rounded)
                for x in (tf.zeros([3, 2]), tf.fill([1, 2], np.float32(np.nan)), tf.zeros([0, 2])):
                    assert bool(ask(x)) == rounded


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
def test_inverses_reach_their_tolerance(device, solver):
    """In eager code and in a graph; the truth is in extended precision, by Newton's method."""
    block = InvertibleResidual(hidden=6, kernel_sizes=(3, 3), coeff=0.97, solver=solver)
    block.build((None, 4, 4, 2))
    randomize(block)
    for layer in block.spectral_layers():  # below coeff: normalisation changes nothing
        layer.kernel.assign(0.6 * layer.normalized_kernel())
    y = 3 * normal(2, 16, 4, 4, 2)
    truth, _ = preimage(Plain(block), y.numpy(), y.numpy())
    graph = tf.function(lambda y: block.inverse(y, return_result=True), autograph=False)
    steps = {}
    for rounded in (False, True):
        device.switch.assign(rounded)
        for solve in (lambda y: block.inverse(y, return_result=True), graph):
            result = solve(y)
            assert result.converged.numpy().all()
            error = np.abs(result.x.numpy().reshape(truth.shape) - truth).max()
            assert error <= 2e-6 * np.ptp(truth)
            steps[rounded] = np.sum(result.steps)
    assert steps[True] <= 1.2 * steps[False]


@pytest.mark.parametrize("name", ["dense", "conv 2-D", "densenet", "conv 2-D recomputed"])
def test_gradients_are_solved_too(device, name):
    layer = make(name)
    device.switch.assign(False)
    y, weights = layer(inputs(name, 4)), inputs(name, 4, seed=7)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(y)
            value = tf.reduce_sum(weights * layer.inverse(y))
        return tape.gradient(value, y)

    truth = gradient()
    device.switch.assign(True)
    np.testing.assert_allclose(gradient(), truth, atol=2e-3 * np.abs(truth).max())


def test_full_precision_pays_nothing():
    """Float64 asks no device, and float32 evaluates g once a step."""
    for dtype, conditions in (("float64", 0), ("float32", 1)):
        block = make("conv 2-D", dtype)
        with frozen(block.spectral_layers()):  # whose norms are a condition of their own
            graph = tf.function(block.inverse).get_concrete_function(
                tf.TensorSpec([None, *block._event_shape], dtype)
            )
        kinds = [
            op.type
            for g in (graph.graph, *_functions(graph.graph))
            for op in g.get_operations()
            if op.type in ("If", "StatelessIf")
        ]
        assert len(kinds) == conditions, kinds


def _functions(graph):
    """The graphs of loops' bodies and conditions."""
    for op in graph.get_operations():
        for name in ("body", "cond"):
            if op.type in ("While", "StatelessWhile"):
                function = graph._get_function(op.get_attr(name).name)
                yield function.graph
                yield from _functions(function.graph)


def test_a_branch_that_rounds_is_given_up_early_and_named():
    """A branch of one's own cannot be split: the solver stops, and says what it may be."""
    kernel = 0.9 * tf.linalg.qr(normal(3, 24, 24)).q

    def g(x):  # ties of float32 products with the rounding of TF32
        return tf.matmul(to_eleven_bits(x), kernel) + tf.sin(1e4 * x) * 1e-4

    y = normal(4, 5, 24)
    for solver in (Picard(max_steps=10_000), Anderson(max_steps=10_000)):
        result = solver.solve(g, y)
        assert not result.converged.numpy().any()
        assert result.steps.numpy().max() < 400
        with pytest.raises(ConvergenceError, match=r"bfloat16 or float16, or .*TF32"):
            result.checked()


def test_affine_keeps_its_parameters():
    affine = Affine(DenseMap(3, 2), True).unrounded()
    assert affine.num_parameters == 2
    assert affine.linear_map == DenseMap(3, 2)
