"""Masked autoregressive flows."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_iresnet.typing import Config, Shape
from training.baselines.bijector_layer import BijectorLayer, Network
from training.baselines.networks import MaskedNetwork


@keras.saving.register_keras_serializable("training")
class MaskedAutoregressive(BijectorLayer):
    r"""y_i = (x_i - t_i(x_1 ... x_{i-1})) exp(-s_i(x_1 ... x_{i-1})), in raster order.

    ln\|det\| is minus the sum of s. Data to latent takes one evaluation of the network; the
    inverse, and so each sample, takes d of them, one after the other.

    Args:
      hidden: widths of the network's hidden layers.
      backwards: whether the order of the dimensions is reversed.
      kernel_sizes: of masked convolutions, odd, one more than hidden layers; None for a dense
        network.
      **kwargs: of `keras.layers.Layer`.

    Source: Papamakarios, Pavlakou, Murray 2017 (MAF), section 3.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        backwards: bool = False,
        kernel_sizes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden = tuple(int(width) for width in hidden)
        self.backwards = bool(backwards)
        self.kernel_sizes = None if kernel_sizes is None else tuple(kernel_sizes)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        event = tf.TensorShape(input_shape)[1:]
        self._size = event.num_elements()
        self.network = MaskedNetwork(
            (self._size,) if self.kernel_sizes is None else event,
            self.hidden,
            self.kernel_sizes,
            self.backwards,
            name="network",
            dtype=self.variable_dtype,
        )
        self.network.build((None, self._size))

    def bijector(self, network: Network) -> tfb.Bijector:
        # TFP's forward direction is the sampling one.
        flow = tfb.Invert(tfb.MaskedAutoregressiveFlow(shift_and_log_scale_fn=network))
        event = list(self._event_shape or ())
        if len(event) == 1:
            return flow
        flat = tfb.Reshape(event_shape_in=event, event_shape_out=[self._size])
        return tfb.Chain([tfb.Invert(flat), flow, flat])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "backwards": self.backwards,
            "kernel_sizes": self.kernel_sizes,
        }
