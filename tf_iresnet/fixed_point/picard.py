"""Picard iteration."""

from __future__ import annotations

import keras

from tf_iresnet.fixed_point.solver import Solver


@keras.saving.register_keras_serializable("tf_iresnet")
class Picard(Solver):
    r"""Picard iteration x <- y - g(x), from x = y.

    Args:
      max_steps: the largest number of evaluations of g.
      atol: absolute tolerance of the residual's RMS, in units of y; None for 4 units in the
        last place of the dtype.
      rtol: tolerance relative to RMS(y); None for the same. If neither is given, the iteration
        goes on below these tolerances while each step still removes a tenth of the residual: the
        blocks that an inverse passes later amplify what is left.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> result = Picard().solve(lambda x: 0.5 * x, tf.constant([[3.0]]))
    >>> bool(result.converged[0]), round(float(result.x[0, 0]), 5)
    (True, 2.0)

    Source: Invertible Residual Networks, algorithm 1.
    """

    def _next(self, x, error, residual, kept, state):
        return x - error, state
