"""Coupling layers: NICE, Real NVP and Glow differ in what is done to the other channels."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_iresnet.functions import softplus
from tf_iresnet.typing import Config, Shape
from training.baselines.bijector_layer import BijectorLayer, Network
from training.baselines.networks import PlainNetwork

SCALES = ("none", "tanh", "sigmoid")


@keras.saving.register_keras_serializable("training")
class Coupling(BijectorLayer):
    r"""y_1 = x_1, y_2 = x_2 exp(s(x_1)) + t(x_1), with channels split into x_1 and x_2.

    ln\|det\| is the sum of s; both directions take one evaluation of the network.

    Args:
      masked: indices of the channels x_1, which stay; the others are x_2.
      hidden: channels of the network.
      kernel_sizes: of the network's layers.
      scale: "none" for s = 0 (NICE), "tanh" for s = a tanh with a learned for each channel
        (Real NVP), "sigmoid" for exp(s) = sigmoid(. + 2) (Glow).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the channels do not make two parts, or `scale` is unknown.

    Source: Dinh, Krueger, Bengio 2014 (NICE), section 3.2; Dinh, Sohl-Dickstein, Bengio 2017
    (Real NVP), section 3.2; Kingma, Dhariwal 2018 (Glow), section 3.3.
    """

    def __init__(
        self,
        masked: Sequence[int],
        hidden: int = 64,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        scale: str = "tanh",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}, got {scale!r}.")
        self.masked = tuple(int(index) for index in masked)
        self.hidden = int(hidden)
        self.kernel_sizes = tuple(kernel_sizes)
        self.scale = scale

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = tf.TensorShape(input_shape)[-1]
        others = [index for index in range(channels) if index not in self.masked]
        if not self.masked or not others or not set(self.masked) < set(range(channels)):
            raise ValueError(
                f"masked must name some but not all of the {channels} channels, got "
                f"{self.masked}; a coupling needs at least 2 channels."
            )
        self._order = [*self.masked, *others]
        self.network = PlainNetwork(
            len(others) * (1 if self.scale == "none" else 2),
            self.hidden,
            self.kernel_sizes,
            name="network",
            dtype=self.variable_dtype,
        )
        self.network.build((*input_shape[:-1], len(self.masked)))
        if self.scale == "tanh":
            self.factor = self.add_weight(
                name="factor", shape=(len(others),), initializer="ones", autocast=False
            )

    def bijector(self, network: Network) -> tfb.Bijector:
        def shift_and_log_scale(x: tf.Tensor, _: int) -> tuple[tf.Tensor, tf.Tensor | None]:
            output = network(x)
            if self.scale == "none":
                return output, None
            shift, raw = tf.split(output, 2, axis=-1)
            if self.scale == "sigmoid":
                return shift, -softplus(-raw - 2.0)
            return shift, tf.convert_to_tensor(self.factor) * tf.tanh(raw)

        coupling = tfb.RealNVP(
            num_masked=len(self.masked),
            shift_and_log_scale_fn=shift_and_log_scale,
            is_constant_jacobian=self.scale == "none",
        )
        if self._order == sorted(self._order):
            return coupling
        ordered = tfb.Permute(tf.constant(self._order))
        return tfb.Chain([tfb.Invert(ordered), coupling, ordered])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "masked": self.masked,
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "scale": self.scale,
        }
