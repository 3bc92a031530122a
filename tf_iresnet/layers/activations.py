"""1-Lipschitz activations, as Keras layers and as parts of a branch."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import functions
from tf_iresnet.arguments import check_choice
from tf_iresnet.functions import concatenation, sorting
from tf_iresnet.layers.lipschitz import bound_of
from tf_iresnet.typing import ActivationLike, ArrayLike, Bounded, Config, Shape, StaticShape


class Activation(keras.layers.Layer, abc.ABC):
    """A layer around a `functions.Function` of Lipschitz constant 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True  # positions are left where they are

    @abc.abstractmethod
    def function(self) -> functions.Function:
        """Returns the activation as a function of `function_parameters`."""

    def function_parameters(self) -> list[tf.Tensor]:
        """Returns its parameters, in the weights' dtype."""
        return []

    def lipschitz_bound(self) -> float:
        """Returns 1."""
        return 1.0

    lipschitz_estimate = lipschitz_bound

    def call(self, x: ArrayLike) -> tf.Tensor:
        x = tf.cast(x, self.compute_dtype)
        parameters = [tf.cast(p, self.compute_dtype) for p in self.function_parameters()]
        return self.function()(parameters, x)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return tuple(input_shape)


@keras.saving.register_keras_serializable("tf_iresnet")
class LipSwish(Activation):
    r"""x sigmoid(softplus(beta) x) / 1.1, smooth and 1-Lipschitz for every beta.

    sup \|d/dx x sigmoid(b x)\| is about 1.0998 whatever b > 0.

    Args:
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> LipSwish()(np.array([[0.0]], "float32")).numpy().tolist()
    [[0.0]]

    Source: Residual Flows for Invertible Generative Modeling, section 3.3.
    """

    def build(self, input_shape: Shape) -> None:
        self.beta = self.add_weight(
            name="beta", shape=(), initializer=keras.initializers.Constant(0.5), autocast=False
        )
        self.built = True

    def function(self) -> functions.Function:
        return functions.ScaledSwish()

    def function_parameters(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(self.beta)]


@keras.saving.register_keras_serializable("tf_iresnet")
class CLipSwish(LipSwish):
    r"""[LipSwish(x), LipSwish(-x)] / 1.004: twice the channels, 1-Lipschitz for every beta.

    At every point at least one half passes a slope of 0.45 or more, so that, unlike LipSwish,
    it never loses the gradient. Its Lipschitz constant is 0.99997 whatever beta is (proven in
    `tf_iresnet.functions.concatenation.ConcatenatedSwish`).

    Args:
      **kwargs: of `keras.layers.Layer`.

    Example:
    >>> CLipSwish()(np.array([[0.0, 1.0]], "float32")).shape
    TensorShape([1, 4])

    Source: Perugachi-Diaz, Tomczak, Bhulai 2021 (Invertible DenseNets with Concatenated
    LipSwish), section 3.3.
    """

    def function(self) -> functions.Function:
        return concatenation.ConcatenatedSwish()

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return (*input_shape[:-1], 2 * input_shape[-1])


@keras.saving.register_keras_serializable("tf_iresnet")
class MaxMin(Activation):
    """Sorts each pair of neighbouring channels, larger first: (max, min).

    It preserves the gradient's norm, which helps Lipschitz classifiers. Not for flows: its second
    derivative is zero almost everywhere, so the log-determinant's gradient says nothing of how
    the activation's slopes move, and training the likelihood stalls.

    Args:
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the number of channels is odd.

    Example:
    >>> MaxMin()(np.array([[1.0, 2.0, 4.0, 3.0]], "float32")).numpy().tolist()
    [[2.0, 1.0, 4.0, 3.0]]

    Source: Anil, Lucas, Grosse 2019 (GroupSort); Residual Flows, section 3.3, on the second
    derivative.
    """

    def build(self, input_shape: Shape) -> None:
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(
                f"MaxMin needs an even number of channels, got inputs of shape {input_shape}."
            )
        self.built = True

    def function(self) -> functions.Function:
        return sorting.PairSort()


_SMOOTH: dict[str, Callable[[], functions.Function]] = {
    "elu": functions.Elu,
    "softplus": lambda: functions.Elementwise(functions.softplus),
    "tanh": lambda: functions.Elementwise(tf.math.tanh),
}


@keras.saving.register_keras_serializable("tf_iresnet")
class SmoothActivation(Activation):
    """A parameter-free 1-Lipschitz activation by name.

    Args:
      function_name: "elu", "softplus" or "tanh".
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the name is not one of these.

    Example:
    >>> SmoothActivation("elu")(np.array([[2.0]], "float32")).numpy().tolist()
    [[2.0]]

    Source: Invertible Residual Networks, section 5 (ELU).
    """

    def __init__(self, function_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function_name = check_choice("function_name", function_name, sorted(_SMOOTH))

    def function(self) -> functions.Function:
        return _SMOOTH[self.function_name]()

    def get_config(self) -> Config:
        return {"function_name": self.function_name, **super().get_config()}


# Keras' functions themselves, not their names, which another function may have.
_CONSTANTS = (
    (keras.activations.linear, 1.0),
    (keras.activations.relu, 1.0),
    (keras.activations.relu6, 1.0),
    (keras.activations.elu, 1.0),
    (keras.activations.selu, 1.7580993408473769),  # scale x alpha, rounded up
    (keras.activations.softplus, 1.0),
    (keras.activations.softsign, 1.0),
    (keras.activations.tanh, 1.0),
    (keras.activations.sigmoid, 0.25),
    (keras.activations.hard_sigmoid, 0.16666666666666669),
    (keras.activations.hard_tanh, 1.0),
    (keras.activations.log_sigmoid, 1.0),
    (keras.activations.silu, 1.0998393201288673),
    (keras.activations.gelu, 1.1289041451852),
)


def activation_bound(activation: ActivationLike | Bounded) -> float:
    """Returns a Lipschitz constant of an activation, as Keras' layers hold one.

    Args:
      activation: one of Keras' activation functions, or a layer or object whose class has a
        method ``lipschitz_bound()``.

    Raises:
      ValueError: if none is known.

    Example:
    >>> activation_bound(keras.activations.tanh)
    1.0
    """
    for function, constant in _CONSTANTS:
        if function is activation:
            return constant
    if hasattr(type(activation), "lipschitz_bound"):
        return bound_of(activation)
    name = getattr(activation, "__name__", type(activation).__name__)
    known = sorted(function.__name__ for function, _ in _CONSTANTS)
    raise ValueError(
        f"activation {name!r} has no known Lipschitz constant; use one of {', '.join(known)}, or "
        "an object whose class has a method lipschitz_bound()."
    )


ACTIVATIONS = ("clipswish", "elu", "lipswish", "maxmin", "softplus", "tanh")
_LAYERS = {"clipswish": CLipSwish, "lipswish": LipSwish, "maxmin": MaxMin}


def make_activation(activation: str, **kwargs: Any) -> Activation:
    """Returns a new activation layer for a name of `ACTIVATIONS`.

    Raises:
      ValueError: if the name is unknown.
    """
    check_choice("activation", activation, ACTIVATIONS)
    if activation in _LAYERS:
        return _LAYERS[activation](**kwargs)
    return SmoothActivation(activation, **kwargs)
