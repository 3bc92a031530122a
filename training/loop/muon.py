"""Muon: momentum whose matrices are made orthogonal before they are a step."""

from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from tf_iresnet.typing import Config

#: A constant learning rate, or one of Keras' schedules.
LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al.: the steepest at 0 that stays bounded
_EPSILON = 1e-7


@keras.saving.register_keras_serializable("training")
class Muon(keras.optimizers.Optimizer):
    r"""A step of one length in every direction for convolutions, and Adam for all else.

    With G_t the gradient of a convolution's kernel, as the matrix of (taps and inputs) x outputs,

        M_t = momentum * M_{t-1} + G_t,    W_{t+1} = W_t - learning_rate * U V^T,

    where U S V^T is the singular value decomposition of G_t + momentum * M_t (Nesterov). Five steps
    of a quintic Newton-Schulz iteration find U V^T up to singular values of 0.7 to 1.2. So a kernel
    whose largest singular value is bounded learns in all directions, and not in the leading ones
    alone, which the bound takes back. Variables of rank 2 and less (biases, scales, the head) take
    a step of Adam at `adam_ratio` of the learning rate.

    Args:
      learning_rate: a number or one of Keras' schedules: a step's largest singular value.
      momentum: of the kernels, in [0, 1).
      adam_ratio: Adam's learning rate as a share of this one.
      beta_1: Adam's, in [0, 1).
      beta_2: Adam's, in [0, 1).
      steps: of the Newton-Schulz iteration.
      name: of the optimizer.
      **kwargs: of `keras.optimizers.Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Example:
    >>> kernel = keras.Variable(np.ones((3, 3, 2, 2), "float32"))
    >>> optimizer = Muon(learning_rate=0.1)
    >>> gradient = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype("float32")
    >>> optimizer.apply([ops.convert_to_tensor(gradient)], [kernel])
    >>> step = 1 - ops.convert_to_numpy(kernel).reshape(18, 2)
    >>> bool(np.all(np.abs(np.linalg.svd(step)[1] / 0.1 - 1) < 0.35))
    True

    Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024).
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.02,
        momentum: float = 0.95,
        adam_ratio: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        steps: int = 5,
        name: str = "muon",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        for key, value in (("momentum", momentum), ("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"{key} must be in [0, 1), got {value!r}")
        if not adam_ratio > 0:
            raise ValueError(f"adam_ratio must be above 0, got {adam_ratio!r}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer of at least 1, got {steps!r}")
        self.momentum, self.adam_ratio, self.steps = momentum, adam_ratio, steps
        self.beta_1, self.beta_2 = beta_1, beta_2

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the momentums, and Adam's second moments."""
        if self.built:
            return
        super().build(variables)
        self._first = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._second = [
            None if _is_kernel(v) else self.add_variable_from_reference(v, "velocity")
            for v in variables
        ]

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable."""
        index = self._get_variable_index(variable)
        first, second = self._first[index], self._second[index]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if second is None:
            self.assign(first, self.momentum * first + gradient)
            matrix = ops.reshape(gradient + self.momentum * first, (-1, variable.shape[-1]))
            direction = ops.reshape(orthogonal_factor(matrix, self.steps), variable.shape)
            self.assign_sub(variable, rate * direction)
            return
        self.assign(first, self.beta_1 * first + (1 - self.beta_1) * gradient)
        self.assign(second, self.beta_2 * second + (1 - self.beta_2) * ops.square(gradient))
        count = ops.cast(self.iterations + 1, variable.dtype)
        mean = first / (1 - ops.power(ops.cast(self.beta_1, variable.dtype), count))
        square = second / (1 - ops.power(ops.cast(self.beta_2, variable.dtype), count))
        self.assign_sub(variable, self.adam_ratio * rate * mean / (ops.sqrt(square) + _EPSILON))

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        return super().get_config() | {
            "momentum": self.momentum,
            "adam_ratio": self.adam_ratio,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "steps": self.steps,
        }


def orthogonal_factor(matrix: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns U V^T of a matrix U S V^T, up to singular values of about 0.7 to 1.2.

    Args:
      matrix: [rows, columns], floating; zeros give zeros.
      steps: of the Newton-Schulz iteration X <- a X + (b X X^T + c (X X^T)^2) X.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else ops.transpose(matrix)
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + _EPSILON)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x if wide else ops.transpose(x)


def _is_kernel(variable: keras.Variable) -> bool:
    """Whether a variable is a convolution's: (taps..., inputs, outputs)."""
    return len(variable.shape) > 2
