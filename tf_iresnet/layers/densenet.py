"""Branches of dense layers, each of which appends new channels to all the earlier ones."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import functions
from tf_iresnet.arguments import check_instance, check_integer
from tf_iresnet.functions.concatenation import Concatenation
from tf_iresnet.layers.activations import Activation
from tf_iresnet.layers.block_options import BranchOptions
from tf_iresnet.layers.branch import Branch, BranchPart
from tf_iresnet.layers.context import context_keyword
from tf_iresnet.layers.lipschitz import bound_of
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.tracking import track
from tf_iresnet.norms.dense import multiply_up, round_up
from tf_iresnet.options import takes
from tf_iresnet.typing import Config, Shape, Size, StaticShape

_PARTS = ("linear", "activation")


@keras.saving.register_keras_serializable("tf_iresnet")
class ConcatenatedLayer(keras.layers.Layer):
    r"""[w_1 x, w_2 phi(W x + b)] along the channels, with learned w_1^2 + w_2^2 = 1.

    w_i = softplus(r_i) / sqrt(softplus(r_1)^2 + softplus(r_2)^2) with r trained from 0. The
    Lipschitz constant is at most sqrt(w_1^2 + (w_2 L)^2), with L that of phi(W .).

    Args:
      linear: the spectral layer W.
      activation: phi.
      **kwargs: of `keras.layers.Layer`.

    Source: Perugachi-Diaz, Tomczak, Bhulai 2021 (Invertible DenseNets with Concatenated
    LipSwish), sections 3.1 and 3.2.
    """

    def __init__(self, linear: SpectralLayer, activation: Activation, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        check_policy(self)
        self.linear = check_instance("linear", linear, SpectralLayer, "SpectralDense(8)")
        self.activation = check_instance("activation", activation, Activation, "LipSwish()")
        self.context_size = linear.context_size

    def build(self, input_shape: Shape) -> None:
        self.raw_weights = self.add_weight(
            name="raw_weights", shape=(2,), initializer="zeros", autocast=False
        )
        self.linear.build(input_shape)
        self.activation.build(self.linear.compute_output_shape(input_shape))
        self.built = True

    def weights_of_parts(self) -> tf.Tensor:
        """Returns w, [2], in the weights' dtype."""
        return tf.math.l2_normalize(functions.softplus(tf.convert_to_tensor(self.raw_weights)))

    def function(self) -> functions.Function:
        """Returns the layer as a function of `function_parameters`."""
        inner = functions.Chain([self.linear.function(), self.activation.function()])
        return Concatenation(inner)

    def function_parameters(self, context: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Returns w, the linear layer's parameters and the activation's."""
        inner = self.linear.function_parameters(**context_keyword(self, context))
        return [self.weights_of_parts(), *inner, *self.activation.function_parameters()]

    def lipschitz_bound(self) -> float:
        """Returns a proven bound, for w as stored and as cast for compute."""
        inner = multiply_up([bound_of(self.linear), bound_of(self.activation)])
        bounds = []
        for dtype in {self.variable_dtype, self.compute_dtype}:
            kept, new = tf.cast(tf.cast(self.weights_of_parts(), dtype), tf.float64).numpy()
            bounds.append(round_up(math.hypot(kept, float(new) * inner), 4))
        return max(bounds)

    def lipschitz_estimate(self) -> float:
        """Returns the same constant for the linear layer's estimated norm: no bound."""
        kept, new = self.weights_of_parts().numpy()
        inner = self.linear.lipschitz_estimate() * self.activation.lipschitz_estimate()
        return math.hypot(kept, float(new) * inner)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        inner = self.activation.compute_output_shape(self.linear.compute_output_shape(input_shape))
        return (*input_shape[:-1], input_shape[-1] + inner[-1])

    def get_config(self) -> Config:
        own = {key: keras.saving.serialize_keras_object(getattr(self, key)) for key in _PARTS}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: Config) -> ConcatenatedLayer:
        parts = {key: keras.saving.deserialize_keras_object(config[key]) for key in _PARTS}
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable("tf_iresnet")
class DenseNetBranch(Branch):
    r"""g = W . h_n . ... . h_1 with dense layers h(x) = [w_1 x, w_2 phi(W_i x + b_i)].

    Every layer sees the input and the outputs of all earlier ones. The learned weights satisfy
    w_1^2 + w_2^2 = 1, so that Lip(h) <= sqrt(w_1^2 + (w_2 coeff)^2) <= 1. The last W, of one tap,
    maps back to the input's channels and has at most the norm coeff: Lip(g) <= coeff. A rank-2
    input gives dense layers, more axes convolutions that keep the size.

    Args:
      growth: channels that each dense layer appends; even for "clipswish", which makes two of
        each.
      depth: dense layers n.
      kernel_size: taps of their convolutions along each axis.
      context_size: features of a context, of which every bias is a linear function; None for no
        context.
      options: how the layers are made, a `BranchOptions`, whose fields are keywords here, too; the
        activation is "clipswish" by default.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> block = InvertibleResidual(DenseNetBranch(growth=8, depth=2), coeff=0.9)
    >>> x = np.linspace(-1.0, 1.0, 8, dtype="float32").reshape(4, 2)
    >>> bool(np.allclose(block.inverse(block(x)), x, atol=1e-5)), block.lipschitz_bound() < 0.91
    (True, True)

    Source: Perugachi-Diaz, Tomczak, Bhulai 2021 (Invertible DenseNets with Concatenated
    LipSwish), section 3.
    """

    @takes(BranchOptions, activation="clipswish")
    def __init__(
        self,
        growth: int = 32,
        depth: int = 3,
        kernel_size: int = 3,
        *,
        context_size: int | None = None,
        options: BranchOptions,
        **kwargs: Any,
    ) -> None:
        super().__init__(options, context_size, **kwargs)
        self.growth = check_integer("growth", growth, 1)
        self.depth = check_integer("depth", depth, 1)
        self.kernel_size = check_integer("kernel_size", kernel_size, 1)
        doubling: Size = options.activation_layer().compute_output_shape((None, 1))[-1]
        if self.growth % doubling:
            raise ValueError(
                f"growth must be even for activation={options.activation!r}, which doubles "
                f"channels, got {growth!r}."
            )
        self._units = self.growth // doubling
        self._parts: list[BranchPart] = []

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        self._parts = [
            ConcatenatedLayer(
                self._make_linear(rank, self._units, self.kernel_size, f"linear_{index}"),
                self._options.activation_layer(name="activation", dtype=self.dtype_policy),
                name=f"dense_{index}",
                dtype=self.dtype_policy,
            )
            for index in range(self.depth)
        ]
        self._parts.append(self._make_linear(rank, input_shape[-1], 1, f"linear_{self.depth}"))
        track(self, "parts", self._parts)
        self._build_parts(input_shape)

    @property
    def parts(self) -> list[BranchPart]:
        return self._parts

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "growth": self.growth,
            "depth": self.depth,
            "kernel_size": self.kernel_size,
        }
