"""Spectrally normalised convolutions, normalised at their true spatial size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.arguments import check_choice, check_integer, check_sizes
from tf_iresnet.functions.linear_maps import ConvMap
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.typing import (
    ActivationLike,
    Config,
    InitializerLike,
    RegularizerLike,
    Shape,
    StaticShape,
)


class _SpectralConv(SpectralLayer):
    rank: int

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        coeff: float | None = 0.9,
        padding: str = "same",
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
        allowed = ("same", "valid", "causal") if self.rank == 1 else ("same", "valid")
        self.filters = check_integer("filters", filters, 1)
        self.kernel_size = check_sizes("kernel_size", kernel_size, self.rank)
        self.padding = check_choice("padding", padding, allowed)

    def _make_map(self, input_shape):
        if len(input_shape) != self.rank + 2 or None in input_shape[1:]:
            raise ValueError(
                f"{self.name} needs inputs with {self.rank} fixed spatial sizes and channels last, "
                f"since the norm depends on the size, got {input_shape}."
            )
        *spatial, channels = input_shape[1:]
        if self.padding == "valid" and any(
            size < taps for size, taps in zip(spatial, self.kernel_size, strict=True)
        ):
            raise ValueError(
                f'{self.name}: kernel_size {self.kernel_size} with padding="valid" leaves nothing '
                f'of inputs of spatial size {tuple(spatial)}; use padding="same".'
            )
        self.input_spec = keras.layers.InputSpec(
            ndim=self.rank + 2, axes=dict(enumerate(input_shape[1:], 1))
        )
        shape = (*self.kernel_size, channels, self.filters)
        return ConvMap(tuple(spatial), shape, self.padding), shape

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        sizes = (
            size if self.padding != "valid" or size is None else size - taps + 1
            for size, taps in zip(input_shape[1:-1], self.kernel_size, strict=True)
        )
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> Config:
        return {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            **super().get_config(),
        }


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralConv1D(_SpectralConv):
    r"""1-D convolution of operator norm at most coeff.

    activation(conv(x, K min(1, coeff / sigma)) + b), with sigma the norm of the convolution
    as an operator on images of the input's size and padding (stride 1, channels last), not
    that of the reshaped kernel.

    Args:
      filters: number of output channels.
      kernel_size: taps along each axis, an integer or 1 of them.
      coeff: the bound c of the norm, in (0, 1); None for no constraint.
      padding: "same", "valid" or "causal".
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
      ValueError: if an argument is out of range, or the input's sizes are not fixed.

    Example:
    >>> layer = SpectralConv1D(8, 3, coeff=0.9)
    >>> layer(np.ones((2, 5, 4), "float32")).shape
    TensorShape([2, 5, 8])

    Source: Invertible Residual Networks, section 2.1 and appendix; Gouk et al. 2018.
    """

    rank = 1


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralConv2D(_SpectralConv):
    r"""2-D convolution of operator norm at most coeff.

    activation(conv(x, K min(1, coeff / sigma)) + b), with sigma the norm of the convolution
    as an operator on images of the input's size and padding (stride 1, channels last), not
    that of the reshaped kernel.

    Args:
      filters: number of output channels.
      kernel_size: taps along each axis, an integer or 2 of them.
      coeff: the bound c of the norm, in (0, 1); None for no constraint.
      padding: "same" or "valid".
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
      ValueError: if an argument is out of range, or the input's sizes are not fixed.

    Example:
    >>> layer = SpectralConv2D(8, 3, coeff=0.9)
    >>> layer(np.ones((2, 5, 5, 4), "float32")).shape
    TensorShape([2, 5, 5, 8])

    Source: Invertible Residual Networks, section 2.1 and appendix; Gouk et al. 2018.
    """

    rank = 2


@keras.saving.register_keras_serializable("tf_iresnet")
class SpectralConv3D(_SpectralConv):
    r"""3-D convolution of operator norm at most coeff.

    activation(conv(x, K min(1, coeff / sigma)) + b), with sigma the norm of the convolution
    as an operator on images of the input's size and padding (stride 1, channels last), not
    that of the reshaped kernel.

    Args:
      filters: number of output channels.
      kernel_size: taps along each axis, an integer or 3 of them.
      coeff: the bound c of the norm, in (0, 1); None for no constraint.
      padding: "same" or "valid".
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
      ValueError: if an argument is out of range, or the input's sizes are not fixed.

    Example:
    >>> layer = SpectralConv3D(8, 3, coeff=0.9)
    >>> layer(np.ones((2, 3, 3, 3, 4), "float32")).shape
    TensorShape([2, 3, 3, 3, 8])

    Source: Invertible Residual Networks, section 2.1 and appendix; Gouk et al. 2018.
    """

    rank = 3
