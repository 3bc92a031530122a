"""What gradient tapes record: TensorFlow says so in its private interface alone."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python import pywrap_tfe


def any_active() -> bool:
    """Says whether there is a gradient tape at all, which costs next to nothing to ask."""
    return not pywrap_tfe.TFE_Py_TapeSetIsEmpty()


def recording(*tensors: tf.Tensor) -> int:
    """Returns 0, 1 or 2: no tape, one, or several (or a persistent one) record the tensors' uses.

    Args:
      *tensors: whose uses are meant; that of any of them counts.

    Returns:
      A number up to 2.

    Example:
    >>> x = tf.constant(1.0)
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     recording(x), recording(tf.constant(1.0))
    (1, 0)
    """
    return pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(list(tensors))
