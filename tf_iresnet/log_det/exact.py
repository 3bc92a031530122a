"""The exact log-determinant, from the dense Jacobian."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.log_det.estimator import LogDetEstimator, wide_dtype
from tf_iresnet.tensorflow_private import by_xla


def _log_determinant(matrix: tf.Tensor) -> tf.Tensor:
    """Returns ln|det| of matrices [batch, d, d]."""
    if not by_xla():
        return tf.linalg.slogdet(matrix).log_abs_determinant
    # XLA has no LU decomposition; |det Q| = 1 in M = Q R.
    diagonal = tf.linalg.diag_part(tf.linalg.qr(matrix).r)
    return tf.reduce_sum(tf.math.log(tf.abs(diagonal)), axis=-1)


def _inverse(matrix: tf.Tensor, log_determinant: tf.Tensor) -> tf.Tensor:
    """Returns the inverses [batch, d, d]; NaN for singular matrices, where TensorFlow raises."""
    sound = tf.math.is_finite(log_determinant)[:, None, None]
    inverse = tf.linalg.inv(tf.where(sound, matrix, tf.eye(matrix.shape[-1], dtype=matrix.dtype)))
    return tf.where(sound, inverse, tf.constant(math.nan, matrix.dtype))


@keras.saving.register_keras_serializable("tf_iresnet")
class Exact(LogDetEstimator):
    r"""The log-determinant itself, from the dense Jacobian: d products for d dimensions.

    The gradient is tr((I + J)^{-1} dJ), exact as well, with memory for one block of columns.

    Args:
      rows: how many rows of the Jacobian are computed at once.

    Raises:
      ValueError: if ``rows`` is below 1.

    Example:
    >>> Exact().stochastic
    False

    Source: Jacobi's formula, d ln\|det M\| = tr(M^{-1} dM).
    """

    stochastic = False

    def __init__(self, rows: int = 16) -> None:
        self.rows = check_integer("rows", rows, 1)

    def get_config(self):
        return {"rows": self.rows}

    def __call__(self, function, parameters, x, seed=None):
        parameters = list(parameters)
        size = x.shape[1:].num_elements()
        if size is None:
            raise ValueError(f"Exact needs a static event shape, got a tensor of shape {x.shape}.")
        rows = min(self.rows, size)
        blocks = -(-size // rows)
        wide = wide_dtype(x.dtype)

        def units(block, batch):
            """The block's unit vectors, [rows * batch, *event]; past the last one, zeros."""
            unit = tf.one_hot(block * rows + tf.range(rows), size, dtype=x.dtype)
            return tf.reshape(tf.repeat(unit, batch, axis=0), [-1, *x.shape[1:]])

        @tf.custom_gradient
        def evaluate(x, *parameters):
            batch = tf.shape(x)[0]
            tiled = tf.tile(x, [rows] + [1] * (x.shape.rank - 1))
            tiled_g, residuals = function.linearize(parameters, tiled)

            def fill(block, array):
                pulled = function.vjp(parameters, residuals, units(block, batch))
                pulled = tf.reshape(tf.cast(pulled, wide), [rows, batch, size])
                return block + 1, array.write(block, pulled)

            array = tf.TensorArray(wide, size=blocks, element_shape=[rows, None, size])
            _, array = tf.while_loop(
                lambda block, _: block < blocks, fill, (0, array), parallel_iterations=1
            )
            jacobian = tf.transpose(
                tf.reshape(array.stack(), [blocks * rows, batch, size])[:size], [1, 0, 2]
            )
            matrix = tf.eye(size, dtype=wide) + jacobian
            value = _log_determinant(matrix)

            def gradient(upstream_g, upstream_value):
                # <c, dJ e_j> summed over j, where c is the row j of the inverse.
                inverse = _inverse(matrix, value) * upstream_value[:, None, None]
                inverse = tf.pad(inverse, [[0, 0], [0, blocks * rows - size], [0, 0]])
                inverse = tf.reshape(inverse, [batch, blocks, rows, size])
                zeros = tf.zeros_like(tiled_g)

                def add(block, *totals):
                    cotangent = tf.transpose(inverse[:, block], [1, 0, 2])
                    cotangent = tf.cast(tf.reshape(cotangent, tf.shape(tiled)), x.dtype)
                    _, tangents = function.jvp(parameters, residuals, units(block, batch))
                    by_x, by_parameters = function.gradient(
                        parameters, residuals, zeros, [(tangents, cotangent)]
                    )
                    by_x = tf.reduce_sum(
                        tf.reshape(by_x, tf.concat([[rows], tf.shape(x)], axis=0)), axis=0
                    )
                    new = [by_x, *by_parameters]
                    return (block + 1, *(a + b for a, b in zip(totals, new, strict=True)))

                _, plain_residuals = function.linearize(parameters, x)
                by_x, by_parameters = function.gradient(parameters, plain_residuals, upstream_g)
                _, *totals = tf.while_loop(
                    lambda block, *_: block < blocks,
                    add,
                    (0, by_x, *by_parameters),
                    parallel_iterations=1,
                )
                return tuple(totals)

            return (tiled_g[:batch], value), gradient

        return evaluate(x, *parameters)
