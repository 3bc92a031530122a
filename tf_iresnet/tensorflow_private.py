"""All code that touches names which TensorFlow keeps private.

`tests/library/root/test_private_names.py` says for each name what breaks when it goes.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.ops import control_flow_util


def save_with(
    owner: tf.Module, name: str, parts: Iterable[tf.Module], overwrite: bool = True
) -> None:
    """Makes `tf.train.Checkpoint` save what ``owner`` holds in a list.

    Args:
      owner: the object with the list.
      name: prefix of their names in a checkpoint.
      parts: the list.
      overwrite: whether parts of the same name are replaced.
    """
    for index, part in enumerate(parts):
        owner._track_trackable(part, name=f"{name}_{index}", overwrite=overwrite)


def any_tape() -> bool:
    """Says whether any gradient tape is active, at next to no cost."""
    return not pywrap_tfe.TFE_Py_TapeSetIsEmpty()


def recording_tapes(*tensors: tf.Tensor) -> int:
    """Counts the gradient tapes that record operations on some tensors.

    Returns:
      0 for none, 1 for one, and 2 for several or a persistent one.

    Example:
    >>> x = tf.constant(1.0)
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     recording_tapes(x), recording_tapes(tf.constant(1.0))
    (1, 0)
    """
    return pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(list(tensors))


def by_xla() -> bool:
    """Says whether the graph being traced belongs to a function with ``jit_compile=True``.

    XLA lacks some of TensorFlow's kernels, and some kernels for GPUs run on the host. Code that
    can compute a result in two ways asks here which to use.

    Example:
    >>> tf.function(lambda: tf.constant(by_xla()), jit_compile=True)().numpy(), by_xla()
    (np.True_, False)
    """
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
