"""Whether the operations that are being traced will be compiled by XLA."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def by_xla() -> bool:
    """Says whether the graph being traced belongs to a function with ``jit_compile=True``.

    XLA lacks some kernels that TensorFlow has, and some of TensorFlow's on GPUs run on the host:
    what computes the same by either asks here which to use.

    Example:
    >>> tf.function(lambda: tf.constant(by_xla()), jit_compile=True)().numpy(), by_xla()
    (np.True_, False)
    """
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
