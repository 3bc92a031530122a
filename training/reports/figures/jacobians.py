"""Dense Jacobians of a flow's branches, and what the series of their traces says."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tf_iresnet.functions import Function, Parameters
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.typing import Config


class DenseTraces(LogDetEstimator):
    """Takes the place of a block's estimator, in eager code, and keeps its dense Jacobians' values.

    It returns log-determinants of zero, so that a flow's total is that of everything else. Its own
    values are sums over blocks in float64: "exact" is ln|det(I + J)| of each example by
    `numpy.linalg.slogdet`, and row n of "partial" is the series of traces tr(J^k), cut after n + 1
    terms.

    Args:
      terms: of the longest series.
      examples: in the batch.
    """

    stochastic = False

    def __init__(self, terms: int, examples: int) -> None:
        self.exact = np.zeros(examples)
        self.partial = np.zeros((terms, examples))
        self.radius = 0.0  # the largest spectral radius of a branch's Jacobian

    def get_config(self) -> Config:
        return {"terms": len(self.partial), "examples": len(self.exact)}

    def __call__(
        self,
        function: Function,
        parameters: Parameters,
        x: tf.Tensor,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        parameters = list(parameters)
        for index, jacobian in enumerate(_jacobians(function, parameters, x)):
            self.exact[index] += np.linalg.slogdet(np.eye(len(jacobian)) + jacobian)[1]
            self.radius = max(self.radius, np.abs(np.linalg.eigvals(jacobian)).max())
            power, total = np.eye(len(jacobian)), 0.0
            for k in range(1, len(self.partial) + 1):
                power = power @ jacobian
                total -= (-1) ** k * np.trace(power) / k
                self.partial[k - 1, index] += total
        g, _ = function.linearize(parameters, x)
        return g, tf.zeros(tf.shape(x)[:1], x.dtype)


def _jacobians(function: Function, parameters: Parameters, x: tf.Tensor) -> Iterator[np.ndarray]:
    """Yields the Jacobian of each example, [d, d] in float64, by one product for each row."""
    size = x.shape[1:].num_elements()
    units = tf.reshape(tf.eye(size, dtype=x.dtype), [size, *x.shape[1:]])
    for example in x:
        _, residuals = function.linearize(parameters, tf.repeat(example[None], size, axis=0))
        pulled = function.vjp(parameters, residuals, units)
        yield tf.reshape(pulled, [size, size]).numpy().astype(np.float64)
