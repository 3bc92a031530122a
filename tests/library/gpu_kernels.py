"""Which kernels TensorFlow has for GPUs, by its registry.

Its wheel lists them on machines without a GPU, too.
"""

import functools

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import kernels

FLOATING = {types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE}
# Calls of functions, whose own operations are looked at, and what prints a failed assertion.
SKIPPED = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If",
           "StatelessIf", "Placeholder", "Assert"}  # fmt: skip


def types(attribute):
    """The dtypes that an attribute of a node holds."""
    return [attribute.type] if attribute.WhichOneof("value") == "type" else attribute.list.type


@functools.cache
def kernels_for_gpus(op):
    """What each of TensorFlow's kernels for GPUs asks of an operation's dtypes."""
    registered = kernels.get_registered_kernels_for_op(op).kernel
    return [
        [
            (constraint.name, list(constraint.allowed_values.list.type))
            for constraint in k.constraint
        ]
        for k in registered
        if k.device_type in ("GPU", "DEFAULT")
    ]


def has_kernel(node):
    """Whether TensorFlow has a kernel for GPUs that takes the node's dtypes."""
    return any(
        all(not allowed or set(types(node.attr[name])) <= set(allowed) for name, allowed in kernel)
        for kernel in kernels_for_gpus(node.op)
    )


def missing(function, *specs):
    """The operations on floating-point numbers in a function's graphs without such a kernel."""
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert len(nodes) > 20
    return {
        (node.op, *sorted(t for a in node.attr.values() for t in types(a)))
        for node in nodes
        if node.op not in SKIPPED
        and FLOATING & {t for a in node.attr.values() for t in types(a)}
        and not has_kernel(node)
    }


def spec(dtype, *shape):
    return tf.TensorSpec([None, *shape], dtype)
