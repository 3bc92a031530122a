"""Residual branches: compositions of parts, and the paper's branch of spectral layers."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from tf_iresnet import functions
from tf_iresnet.arguments import check_flag, check_integer, check_integers
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.block_options import BranchOptions
from tf_iresnet.layers.context import check_context, check_context_size, context_keyword
from tf_iresnet.layers.lipschitz import bound_of
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.layers.spectral import SpectralLayer, choose_normalization
from tf_iresnet.layers.tracking import track
from tf_iresnet.norms.dense import multiply_up
from tf_iresnet.options import takes
from tf_iresnet.typing import ArrayLike, Bounded, Config, Context, Shape, StaticShape


class BranchPart(Bounded, Protocol):
    """A layer in a branch: it computes `function` of its `function_parameters`."""

    built: bool

    def build(self, input_shape: Shape) -> None:
        """Makes the weights."""

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        """Returns the output's shape, with the batch axis."""

    def function(self) -> functions.Function:
        """Returns what the layer computes."""

    def function_parameters(self, context: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Returns the function's parameters, in the weights' dtype."""

    def lipschitz_estimate(self) -> float:
        """Returns the Lipschitz constant that the layer believes in: no bound."""


class Branch(keras.layers.Layer, abc.ABC):
    """A composition of ``parts``: layers that offer a function, its parameters and a bound.

    A subclass builds itself and defines `parts`. Parts that take a context have a
    ``context_size``.

    Args:
      options: how its layers are made.
      context_size: features of a context; None for none.
      **kwargs: of `keras.layers.Layer`.
    """

    normalization: str

    #: How often a training step evaluates the branch, or does what costs as much, for "auto".
    passes = 12

    def __init__(
        self, options: BranchOptions, context_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        check_policy(self)
        self._options = options
        options.keep_on(self)
        self.context_size = check_context_size(context_size)

    @property
    @abc.abstractmethod
    def parts(self) -> list[BranchPart]:
        """The layers in the order of evaluation."""

    def _make_linear(self, rank: int, units: int, taps: int, name: str) -> SpectralLayer:
        """Makes a dense layer for inputs of rank 2, a convolution for more axes."""
        own = {"context_size": self.context_size, "dtype": self.dtype_policy, "name": name}
        return self._options.linear(rank, units, taps, **own)

    def _build_parts(self, input_shape: Shape) -> None:
        shapes = [tuple(input_shape)]
        for part in self.parts:
            shapes.append(part.compute_output_shape(shapes[-1]))
        if self.normalization == "auto":
            self._choose_normalization(shapes)
        for part, shape in zip(self.parts, shapes, strict=False):
            part.build(shape)
        # The convolutions' norms hold for this size.
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes=dict(enumerate(tuple(input_shape)[1:], 1))
        )
        self.built = True

    def _choose_normalization(self, shapes: Sequence[Shape]) -> None:
        """Makes one choice for all spectral layers, since a block is proven as a whole."""
        maps, layers = [], []
        for part, shape in zip(self.parts, shapes, strict=False):
            for layer in layers_inside(part):
                if isinstance(layer, SpectralLayer):
                    maps.append(layer.operator_at(shape))
                    layers.append(layer)
        self.normalization = choose_normalization(maps, self.passes)
        for layer in layers:
            layer.normalization = self.normalization

    def function(self) -> functions.Chain:
        """Returns the branch as a function of `function_parameters`.

        Raises:
          ValueError: if the branch is not built.
        """
        if not self.built:
            raise ValueError(
                f"{self.name} has no weights yet: call its layer on data, or build(input_shape) it."
            )
        return functions.Chain([part.function() for part in self.parts])

    def function_parameters(self, context: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Returns the parts' parameters, kernels normalised, in the weights' dtype.

        Args:
          context: [batch, context_size], for a branch that takes one.
        """
        groups = [
            part.function_parameters()
            if context is None
            else part.function_parameters(**context_keyword(part, context))
            for part in self.parts
        ]
        return [parameter for group in groups for parameter in group]

    def lipschitz_bound(self) -> float:
        """Returns a proven bound: the product of the parts' bounds, for every context."""
        return multiply_up(bound_of(part) for part in self.parts)

    def lipschitz_estimate(self) -> float:
        """Returns the product of the parts' estimates: no bound."""
        return math.prod(part.lipschitz_estimate() for part in self.parts)

    def call(
        self, x: ArrayLike, training: bool | None = None, context: Context = None
    ) -> tf.Tensor:
        x = tf.cast(x, self.variable_dtype)
        context = check_context(self.name, context, self.context_size, x)
        x = tf.cast(x, self.compute_dtype)
        parameters = self.function_parameters(**context_keyword(self, context))
        return self.function()([tf.cast(p, self.compute_dtype) for p in parameters], x)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return tuple(input_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            **BranchOptions.config_of(self),
            "context_size": self.context_size,
        }


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralBranch(Branch):
    r"""g = W_n . phi . ... . phi . W_1 [. phi], of Lipschitz constant at most coeff^n.

    A rank-2 input gives dense layers, more axes convolutions that keep the size.

    Args:
      hidden: channels between the linear layers.
      kernel_sizes: taps of each convolution; only their number counts for dense layers.
      input_activation: whether an activation comes before the first linear layer.
      context_size: features of a context, of which every bias is a linear function; None for no
        context.
      options: how the layers are made, a `BranchOptions`, whose fields are keywords here, too.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> SpectralBranch(hidden=8)(np.zeros((1, 4, 4, 3), "float32")).shape
    TensorShape([1, 4, 4, 3])

    Source: Invertible Residual Networks, section 5 and appendix; Residual Flows, section 4.
    """

    @takes(BranchOptions)
    def __init__(
        self,
        hidden: int = 64,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        *,
        input_activation: bool = True,
        context_size: int | None = None,
        options: BranchOptions,
        **kwargs: Any,
    ) -> None:
        super().__init__(options, context_size, **kwargs)
        self.hidden = check_integer("hidden", hidden, 1)
        self.kernel_sizes = check_integers("kernel_sizes", kernel_sizes, "linear layer")
        self.input_activation = check_flag("input_activation", input_activation)
        self._activations = [
            options.activation_layer(name=f"activation_{index}", dtype=self.dtype_policy)
            for index in range(0 if self.input_activation else 1, len(self.kernel_sizes))
        ]
        self._linear: list[SpectralLayer] = []
        track(self, "activations", self._activations)

    def build(self, input_shape: Shape) -> None:
        outputs = [self.hidden] * (len(self.kernel_sizes) - 1) + [input_shape[-1]]
        self._linear = [
            self._make_linear(len(input_shape), units, taps, f"linear_{index}")
            for index, (units, taps) in enumerate(zip(outputs, self.kernel_sizes, strict=True))
        ]
        track(self, "linear", self._linear)
        self._build_parts(input_shape)

    @property
    def parts(self) -> list[BranchPart]:
        parts: list[BranchPart] = []
        activations = list(self._activations)
        for index, layer in enumerate(self._linear):
            if index or self.input_activation:
                parts.append(activations.pop(0))
            parts.append(layer)
        return parts

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "input_activation": self.input_activation,
        }
