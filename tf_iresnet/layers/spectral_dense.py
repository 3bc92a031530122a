"""The spectrally normalised dense layer."""

from __future__ import annotations

from typing import Any

import keras

from tf_iresnet.arguments import check_integer
from tf_iresnet.functions.linear_maps import DenseMap
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.typing import (
    ActivationLike,
    Config,
    InitializerLike,
    RegularizerLike,
    Shape,
    StaticShape,
)


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralDense(SpectralLayer):
    r"""Dense layer of norm at most coeff: activation(x W min(1, coeff / sigma(W)) + b).

    Args:
      units: size of the output's last axis.
      coeff: the bound c of the norm, in (0, 1); None for no constraint.
      power_iterations: products with W^T W in a round of the search for u and v.
      normalization: "bound" divides by a proven upper bound of the norm, which is then at most
        coeff in every call; "power_iteration" by an estimate from below, cheaper for wide
        kernels; "auto" by the bound where it costs at most 5 % of a training step.
      activation: as in Keras; should be 1-Lipschitz if the layer shall be.
      use_bias: whether to add a bias.
      kernel_initializer: as in Keras, or "delta_orthogonal" (`tf_iresnet.initializers`).
      bias_initializer: as in Keras.
      kernel_regularizer: as in Keras.
      bias_regularizer: as in Keras.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> layer = SpectralDense(3, coeff=0.9)
    >>> layer(np.ones((2, 4), "float32")).shape
    TensorShape([2, 3])
    >>> layer.lipschitz_bound() < 0.95
    True

    Source: Invertible Residual Networks, section 2.1; Gouk et al. 2018.
    """

    def __init__(
        self,
        units: int,
        *,
        coeff: float | None = 0.9,
        power_iterations: int = 4,
        normalization: str = "auto",
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            coeff=coeff,
            power_iterations=power_iterations,
            normalization=normalization,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            **kwargs,
        )
        self.units = check_integer("units", units, 1)
        self.supports_masking = True  # positions are left where they are

    def _make_map(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name} needs inputs of shape [batch, ..., features] with a fixed number of "
                f"features, got {input_shape}."
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        return DenseMap(input_shape[-1], self.units), (input_shape[-1], self.units)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        return {"units": self.units, **super().get_config()}
