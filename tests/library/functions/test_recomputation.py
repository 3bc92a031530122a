"""Recomputation: the same gradients, and nothing wide kept for the backward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context as _context

from tests.library.registry import randomize
from tests.library.small_models import classifier, flow, pixels, values
from tf_iresnet.functions.recomputation import after
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette

HIDDEN = 37
EVENT = (3, 4, 2)
ESTIMATORS = [RussianRoulette(probes=2), PowerSeries(3), Exact(rows=5)]


def block(recompute, activation="lipswish"):
    keras.utils.set_random_seed(0)
    layer = InvertibleResidual(hidden=HIDDEN, activation=activation, recompute=recompute)
    layer.build((None, *EVENT))
    randomize(layer)
    return layer


def graph_of_gradients(layer, log_det):
    """The graph of a gradient, and the placeholders of what arrives from above."""

    def gradients(x, by_y, by_value):
        with tf.GradientTape() as tape:
            tape.watch(x)
            if log_det is None:
                outputs, upstream = [layer.forward(x, training=True)], [by_y]
            else:
                outputs = layer.forward_and_log_det(x, seed=0, log_det=log_det, training=True)
                upstream = [by_y, by_value]
        sources = [x, *(v.value for v in layer.trainable_variables)]
        return tape.gradient(outputs, sources, upstream)

    x = tf.TensorSpec((None, *EVENT))
    function = tf.function(gradients, input_signature=[x, x, tf.TensorSpec([None])])
    graph = function.get_concrete_function().graph
    return graph, graph.inputs[1:3]


def held(layer, log_det):
    """Wide tensors of the forward pass that the backward pass reads."""
    graph, upstream = graph_of_gradients(layer, log_det)
    backward = set()
    for op in graph.get_operations():  # in topological order
        above = [*(tensor.op for tensor in op.inputs), *op.control_inputs]
        if any(tensor.op is op for tensor in upstream) or backward & set(above):
            backward.add(op)
    read = {tensor.ref() for op in backward for tensor in op.inputs if tensor.op not in backward}
    shapes = [ref.deref().shape for ref in read]
    return [shape for shape in shapes if shape.rank == 4 and shape[0] is None and HIDDEN in shape]


@pytest.mark.parametrize("log_det", [None, *ESTIMATORS[:2]], ids=repr)
def test_nothing_wide_is_kept(log_det):
    assert len(held(block(False), log_det)) >= 2
    assert held(block(True), log_det) == []


def optimized_graph(function, *arguments):
    """The nodes that TensorFlow runs, by name, with the names of what each waits for."""
    context = _context.context()
    context.ensure_initialized()
    context.enable_run_metadata()
    try:
        function(*arguments)
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_run_metadata()
    nodes = max((graph.post_optimization_graph.node for graph in graphs), key=len)
    return {
        node.name: (node.op, [name.lstrip("^").split(":")[0] for name in node.input])
        for node in nodes
    }


def two_blocks(recompute):
    """Gradients of two blocks' sum, and both log-determinants, in one graph."""
    blocks = [block(recompute), block(recompute)]
    sources = [v.value for layer in blocks for v in layer.trainable_variables]

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            for index, layer in enumerate(blocks):
                x, log_det = layer.forward_and_log_det(
                    x, seed=index, log_det=PowerSeries(2), training=True
                )
            loss = tf.reduce_sum(tf.square(x)) + tf.reduce_sum(log_det)
        return tape.gradient(loss, sources)

    return optimized_graph(gradients, tf.ones((2, *EVENT)))


def convolutions(nodes):
    forward = ("Conv2D", "_FusedConv2D", "_MklNativeConv2D", "_MklNativeFusedConv2D")
    return [name for name, (op, _) in nodes.items() if op in forward]


def test_the_graph_optimizer_does_not_undo_it():
    """It merges equal operations and drops the control dependencies that keep them apart."""
    plain, again = two_blocks(False), two_blocks(True)
    # Of two blocks, value and product J t of all convolutions but the last, whose own are not used.
    assert len(convolutions(again)) >= len(convolutions(plain)) + 8


def test_after_waits_and_changes_nothing():
    x = tf.constant([0.0, -0.0, np.nan, np.inf, 1e-40])
    others = [tf.constant([np.nan, np.inf, -np.inf]), tf.zeros([0, 3], tf.float64)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = after(x, *others)
    assert y.numpy().tobytes() == x.numpy().tobytes()
    np.testing.assert_array_equal(tape.gradient(y, x), np.ones(5))

    @tf.function
    def waits(x, a):
        return tf.exp(after(tf.sin(x), tf.cos(a)))

    nodes = optimized_graph(waits, x, x)
    (found,) = [name for name, (op, _) in nodes.items() if op == "Exp"]
    waiting, above = [found], set()
    while waiting:
        name = waiting.pop()
        above.add(nodes[name][0])
        waiting += nodes[name][1]
    assert "Cos" in above


@pytest.mark.parametrize(
    ("log_det", "activation"),
    [(None, "lipswish"), *((estimator, "lipswish") for estimator in ESTIMATORS), (None, "elu")],
    ids=repr,
)
def test_gradients_are_those_of_the_plain_block(log_det, activation):
    rng = np.random.default_rng(0)
    x, by_y = (tf.constant(rng.standard_normal((3, *EVENT)), tf.float32) for _ in range(2))
    by_value = tf.constant([1.0, -2.0, 0.5])
    found = []
    for recompute in (False, True):
        layer = block(recompute, activation)
        with tf.GradientTape() as tape:
            tape.watch(x)
            if log_det is None:
                loss = tf.reduce_sum(by_y * layer.forward(x, training=True))
            else:
                y, value = layer.forward_and_log_det(x, seed=0, log_det=log_det, training=True)
                loss = tf.reduce_sum(by_y * y) + tf.reduce_sum(by_value * value)
        found.append(tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)]))
    for plain, again in zip(*found, strict=True):
        scale = float(tf.reduce_max(tf.abs(plain)))
        np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("make", [flow, classifier])
def test_models_pass_the_choice_to_their_blocks(make):
    model = make(recompute=True)
    blocks = [b for b in model.flow._flatten_layers() if isinstance(b, InvertibleResidual)]
    assert blocks
    assert all(block.recompute for block in blocks)
    again = type(model).from_config(model.get_config())
    assert again.recompute is True


def test_a_flow_trains_to_the_same_weights():
    trained = []
    for recompute in (False, True):
        model = flow(recompute=recompute)
        model.compile("sgd", run_eagerly=True)
        model.adapt(pixels(8))
        model.train_step(tf.constant(pixels(8)))
        trained.append(values(model.trainable_variables))
    for plain, again in zip(*trained, strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-6)
