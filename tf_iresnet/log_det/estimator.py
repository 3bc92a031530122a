"""What every estimator of a log-determinant offers."""

from __future__ import annotations

import abc

import tensorflow as tf

from tf_iresnet.functions import Function, Parameters
from tf_iresnet.typing import Config


def wide_dtype(dtype: tf.DType) -> tf.DType:
    """Returns float32, or float64 where the branch computes in it."""
    return tf.float64 if dtype == tf.float64 else tf.float32


class LogDetEstimator(abc.ABC):
    """Turns a branch g at x into ln|det(I + J_g(x))| per example, with its gradient.

    Example:
    >>> from tf_iresnet.log_det import Exact
    >>> Exact(rows=4), Exact(rows=4) == Exact(rows=4), Exact().has_finite_variance(0.9)
    (Exact(rows=4), True, True)
    """

    #: Whether two seeds give two values.
    stochastic: bool = True

    @abc.abstractmethod
    def __call__(
        self, function: Function, parameters: Parameters, x: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates g and the log-determinant.

        Args:
          function: the branch g as a `tf_iresnet.functions.Function`.
          parameters: its parameters.
          x: [batch, ...], the dtype that g computes in.
          seed: int32 [3], see `tf_iresnet.randomness`.

        Returns:
          g(x), and the log-determinant [batch] in nats, float32 or wider. Both are
          differentiable once in x and the parameters, for any upstream gradient.
        """

    def has_finite_variance(self, lipschitz: float) -> bool:
        """Says whether the variance is finite for all branches of this constant, below 1."""
        return True

    @abc.abstractmethod
    def get_config(self) -> Config:
        """Returns the constructor's arguments."""

    @classmethod
    def from_config(cls, config: Config) -> LogDetEstimator:
        """Builds the estimator from `get_config`'s result."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(self.get_config().items()))))
