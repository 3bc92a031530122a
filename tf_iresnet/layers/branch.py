"""The residual branch of the paper: activations and spectrally normalised layers in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import functions
from tf_iresnet.bounds.dense import product_up
from tf_iresnet.layers.activations import make_activation
from tf_iresnet.layers.spectral import checked_normalization
from tf_iresnet.layers.spectral_conv import SpectralConv1D, SpectralConv2D, SpectralConv3D
from tf_iresnet.layers.spectral_dense import SpectralDense
from tf_iresnet.layers.tracking import track

_CONVOLUTIONS = {3: SpectralConv1D, 4: SpectralConv2D, 5: SpectralConv3D}


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralBranch(keras.layers.Layer):
    r"""g = W_n . phi . ... . phi . W_1 [. phi], of Lipschitz constant at most coeff^n.

    A rank-2 input gives dense layers, more axes convolutions that keep the size.

    Args:
      hidden: channels between the linear layers.
      kernel_sizes: taps of each convolution; only their number counts for dense layers.
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint.
      activation: "elu", "lipswish", "softplus", "tanh" or "maxmin".
      input_activation: whether an activation comes before the first linear layer.
      power_iterations: of each spectral layer.
      normalization: "power_iteration" or "bound", of each spectral layer.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> SpectralBranch(hidden=8)(np.zeros((1, 4, 4, 3), "float32")).shape
    TensorShape([1, 4, 4, 3])

    Source: Invertible Residual Networks, section 5 and appendix; Residual Flows, section 4.
    """

    def __init__(
        self,
        hidden: int = 64,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        coeff: float | None = 0.9,
        activation: str = "lipswish",
        input_activation: bool = True,
        power_iterations: int = 1,
        normalization: str = "power_iteration",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if isinstance(hidden, bool) or int(hidden) != hidden or hidden < 1:
            raise ValueError(f"hidden must be an integer of at least 1, got {hidden!r}.")
        if not kernel_sizes or any(int(k) != k or k < 1 for k in kernel_sizes):
            raise ValueError(
                f"kernel_sizes must hold integers of at least 1, got {kernel_sizes!r}."
            )
        self.hidden = int(hidden)
        self.kernel_sizes = tuple(int(k) for k in kernel_sizes)
        self.coeff = coeff
        self.activation = activation
        self.input_activation = bool(input_activation)
        self.power_iterations = power_iterations
        self.normalization = checked_normalization(normalization)
        # Made now, so that wrong arguments are refused before any input is seen.
        self._activations = [
            make_activation(activation, name=f"activation_{index}", dtype=self.dtype_policy)
            for index in range(0 if self.input_activation else 1, len(self.kernel_sizes))
        ]
        self._linear: list[keras.layers.Layer] = []
        track(self, "activations", self._activations)

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        outputs = [self.hidden] * (len(self.kernel_sizes) - 1) + [channels]
        for index, (units, taps) in enumerate(zip(outputs, self.kernel_sizes, strict=True)):
            options: dict[str, Any] = {
                "coeff": self.coeff,
                "power_iterations": self.power_iterations,
                "normalization": self.normalization,
                "name": f"linear_{index}",
                "dtype": self.dtype_policy,
            }
            layer: keras.layers.Layer
            if len(input_shape) == 2:
                layer = SpectralDense(units, **options)
            elif len(input_shape) in _CONVOLUTIONS:
                layer = _CONVOLUTIONS[len(input_shape)](units, taps, **options)
            else:
                raise ValueError(
                    f"{self.name} needs inputs of 2 to 5 axes, got shape {tuple(input_shape)}."
                )
            self._linear.append(layer)
        track(self, "linear", self._linear)
        shape = tuple(input_shape)
        for layer in self.parts:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    @property
    def parts(self) -> list[keras.layers.Layer]:
        """The layers in the order of evaluation."""
        parts: list[keras.layers.Layer] = []
        activations = list(self._activations)
        for index, layer in enumerate(self._linear):
            if index or self.input_activation:
                parts.append(activations.pop(0))
            parts.append(layer)
        return parts

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

    def function_parameters(self) -> list[tf.Tensor]:
        """Returns the parts' parameters, kernels normalised, in the weights' dtype."""
        return [p for part in self.parts for p in part.function_parameters()]

    def lipschitz_bound(self) -> float:
        """Returns a proven bound: the product of the parts' bounds."""
        return product_up(part.lipschitz_bound() for part in self.parts)

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        for part in self._linear:
            if training:
                part.update_spectral_state()
        x = tf.cast(x, self.compute_dtype)
        parameters = [tf.cast(p, self.compute_dtype) for p in self.function_parameters()]
        return self.function()(parameters, x)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "coeff": self.coeff,
            "activation": self.activation,
            "input_activation": self.input_activation,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
        }
