"""Anderson mixing, guarded by Picard iteration."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.arguments import check_integer
from tf_iresnet.batches import event_axes, expand_like
from tf_iresnet.fixed_point.solver import Solver
from tf_iresnet.typing import Config

# Of the least-squares problems, in units in the last place: directions that are due to rounding
# must have no weight.
_REGULARISATION = 100
_LONG = 1024  # pauses grow up to here


@keras.saving.register_keras_serializable("tf_iresnet")
class Anderson(Solver):
    r"""Anderson mixing: Picard steps combined such that the residual's linear model is least.

    With e_i = x_i + g(x_i) - y the error at x_i, f_i = x_i - e_i its Picard step and D the
    differences of consecutive errors (De) and Picard steps (Df) of the last ``memory`` steps,

        x_{i+1} = f_i - Df c,  where c makes |e_i - De c|^2 + r |c|^2 least.

    On linear g this is GMRES with that many vectors. Each example solves its own problem by the
    Gram matrix of its columns, scaled to unit length. There r is a small multiple of the rounding
    error, so that columns which say nothing new have no weight. A step that does not lower the
    residual is rejected: the example forgets its differences and goes on by Picard steps from its
    best point, one at first and twice as many after each further rejection. So few steps are
    wasted, and what Picard iteration solves is solved. g is evaluated once a step, as there.

    Args:
      max_steps: the largest number of evaluations of g.
      atol: absolute tolerance of the residual's RMS, as in `Picard`.
      rtol: tolerance relative to RMS(y), as in `Picard`.
      memory: the number of differences, at least 1; each takes two tensors of the size of y.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> y, g = tf.constant([[3.0, 1.0]]), lambda x: x * [0.9, -0.8]
    >>> result = Anderson().solve(g, y)
    >>> bool(np.allclose(result.x, [[3.0 / 1.9, 1.0 / 0.2]])), int(result.steps[0]) < 10
    (True, True)

    Source: Walker and Ni 2011, Anderson acceleration for fixed-point iterations (method);
    Invertible Residual Networks, algorithm 1 (problem).
    """

    def __init__(
        self,
        max_steps: int = 1000,
        atol: float | None = None,
        rtol: float | None = None,
        memory: int = 5,
    ) -> None:
        super().__init__(max_steps, atol, rtol)
        self.memory = check_integer("memory", memory, 1)

    def get_config(self) -> Config:
        return {**super().get_config(), "memory": self.memory}

    def _start(self, y):
        batch, size = tf.shape(y)[0], y.shape[1:].num_elements()
        # More differences than entries depend on each other.
        memory = self.memory if size is None else max(min(self.memory, size), 1)
        history = (tf.zeros_like(y),) * memory
        counter = tf.zeros([batch], tf.int32)
        return _History(
            plain=tf.ones([batch], tf.bool),
            error=tf.zeros_like(y),
            step=tf.zeros_like(y),
            residual=tf.fill([batch], tf.constant(math.inf, y.dtype)),
            errors=history,
            steps=history,
            gram=tf.zeros([batch, memory, memory], y.dtype),
            filled=counter - 1,
            pause=counter,
            next_pause=counter + 1,
        )

    def _keep(self, better, state):
        return better | _History(*state).plain

    def _next(self, x, error, residual, kept, state):
        old = _History(*state)
        step = x - error
        # The newest difference replaces the oldest; it is scaled, since squares may underflow.
        pushed = kept & (old.filled >= 0)
        factor = expand_like(tf.where(pushed, 1 / old.residual, tf.zeros_like(residual)), x)
        newest = tf.math.multiply_no_nan(error - old.error, factor)
        newest_step = tf.math.multiply_no_nan(step - old.step, factor)
        errors, steps = (newest, *old.errors[:-1]), (newest_step, *old.steps[:-1])
        row = _products(errors, newest)
        lower = tf.concat([row[:, 1:, None], old.gram[:, :-1, :-1]], 2)
        gram = tf.concat([row[:, None], lower], 1)
        mask = expand_like(kept, x)
        error = tf.where(mask, error, old.error)
        step = tf.where(mask, step, old.step)
        filled = tf.where(kept, tf.minimum(old.filled + 1, gram.shape[-1]), 0)

        pause = tf.where(kept, old.pause, old.next_pause)
        plain = (pause > 0) | (filled == 0)
        used = (tf.range(gram.shape[-1]) < filled[:, None]) & ~plain[:, None]
        weights = _least_squares(gram, _products(errors, error), used)
        columns = [expand_like(column, x) for column in tf.unstack(weights, axis=1)]
        mixed = [column * step for column, step in zip(columns, steps, strict=True)]
        state = _History(
            plain=plain,
            error=error,
            step=step,
            residual=tf.where(kept, residual, old.residual),
            errors=errors,
            steps=steps,
            gram=gram,
            filled=filled,
            pause=tf.maximum(pause - 1, 0),
            next_pause=tf.where(kept, old.next_pause, tf.minimum(2 * old.next_pause, _LONG)),
        )
        return step - tf.add_n(mixed), state


class _History(NamedTuple):
    """What each example remembers from step to step."""

    plain: tf.Tensor  # whether the point on trial is a Picard step, bool [batch]
    error: tf.Tensor  # of the best point
    step: tf.Tensor  # the Picard step from there
    residual: tf.Tensor  # the error's RMS
    errors: tuple[tf.Tensor, ...]  # differences of errors, newest first, scaled
    steps: tuple[tf.Tensor, ...]  # differences of Picard steps by the same factors
    gram: tf.Tensor  # mean products of the former, [batch, memory, memory]
    filled: tf.Tensor  # how many differences there are; -1 before the first point
    pause: tf.Tensor  # how many Picard steps are still to come
    next_pause: tf.Tensor  # how many the next failure brings


def _products(history: tuple[tf.Tensor, ...], x: tf.Tensor) -> tf.Tensor:
    """Returns mean products with x, [batch, memory], by no matrix product: GPUs may round those."""
    axes = event_axes(x)
    # No tf.stack: TensorFlow's graph optimizer loses the new axis of a slice of two stacked ones.
    return tf.concat([tf.reduce_mean(column * x, axes)[:, None] for column in history], axis=1)


def _least_squares(gram: tf.Tensor, right: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """Solves (G + r diag G) c = b for the columns in use; the others' coefficients are 0.

    Elimination is written out since TensorFlow's own factorisations raise for the whole batch
    where rounding makes one matrix indefinite, or one example is NaN.
    """
    memory = right.shape[-1]
    squares = tf.linalg.diag_part(gram)
    used &= squares > 0
    zeros, ones = tf.zeros_like(right), tf.ones_like(right)
    scale = tf.where(used, tf.math.rsqrt(squares), zeros)  # columns of size 1, or none
    rest = _REGULARISATION * float(np.finfo(gram.dtype.as_numpy_dtype).eps)
    pairs = used[:, :, None] & used[:, None, :]
    matrix = tf.where(pairs, gram * scale[:, :, None] * scale[:, None], tf.zeros_like(gram))
    matrix = tf.linalg.set_diag(matrix, (1 + rest) * ones)
    right = tf.where(used, scale * right, zeros)
    system = tf.concat([matrix, right[..., None]], -1)
    for i in range(memory):
        row = system[:, i : i + 1] / tf.maximum(system[:, i : i + 1, i : i + 1], rest)
        unit = tf.one_hot(i, memory, dtype=right.dtype)[:, None]
        system -= (system[:, :, i : i + 1] - unit) * row
    return scale * system[..., -1]
