"""Compositions of invertible layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_instances
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.context import common_context_size, context_keyword
from tf_iresnet.layers.invertible import InvertibleLayer, zero_log_det
from tf_iresnet.layers.lipschitz import inverse_bound_of
from tf_iresnet.layers.sharing import deserialize, serialize
from tf_iresnet.layers.tracking import track
from tf_iresnet.norms.dense import multiply_up
from tf_iresnet.typing import Config, Context, Shape, StaticShape

_ROUNDED_UP = 1.0 + 2.0**-40  # more than the roundings of a product of thousands in float64


@keras.saving.register_keras_serializable("tf_iresnet")
class InvertibleSequential(InvertibleLayer):
    r"""f = f_n . ... . f_1; log-determinants add up, the inverse runs backwards.

    Args:
      layers: invertible layers, first to last.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if there is no layer, or one that is not invertible.

    Example:
    >>> from tf_iresnet.layers import ActNorm, InvertibleResidual
    >>> flow = InvertibleSequential([ActNorm(), InvertibleResidual(hidden=8)])
    >>> x = np.ones((3, 2), "float32")
    >>> bool(np.allclose(flow.inverse(flow(x)), x, atol=1e-5))
    True

    Source: Invertible Residual Networks, section 2.
    """

    def __init__(self, layers: Iterable[InvertibleLayer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = check_instances("layers", layers, InvertibleLayer, "invertible layer")
        track(self, "layers", self.layers)
        self._context_size = common_context_size(self.name, self.layers)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        shape = tuple(input_shape)
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    @property
    def context_size(self) -> int | None:
        return self._context_size

    def _adapt(self, parts, contexts, due):
        for layer in self.layers:
            parts = layer._adapt(parts, contexts, due)
        return parts

    def forward(self, x: tf.Tensor, training: bool = False, context: Context = None) -> tf.Tensor:
        for layer in self.layers:
            x = tf.cast(x, layer.variable_dtype)
            x = layer.forward(x, training=training, **context_keyword(layer, context))
        return x

    def _log_det(self, x, seed, log_det, training, context=None):
        total = zero_log_det(x)
        for index, layer in enumerate(self.layers):
            own = randomness.fold_in(seed, index)
            x = tf.cast(x, layer.variable_dtype)
            x, value = layer._log_det(x, own, log_det, training, **context_keyword(layer, context))
            total += tf.cast(value, total.dtype)
        return x, total

    def _inverse(self, y, context=None):
        result = FixedPointResult.exact(y)
        for layer in reversed(self.layers):
            y = tf.cast(result.x, layer.variable_dtype)
            earlier = layer._inverse(y, **context_keyword(layer, context))
            result = result.then(earlier, layer.amplification)
        return result

    def amplification(self) -> tf.Tensor:
        factors = [layer.amplification() for layer in self.layers]
        return _ROUNDED_UP * tf.reduce_prod(tf.stack(factors))

    def sublayers(self) -> Sequence[InvertibleLayer]:
        return self.layers

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        if sublayers is None:
            sublayers = [inverse_bound_of(layer) for layer in self.layers]
        return multiply_up(sublayers)

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        shape = tuple(input_shape)
        for layer in self.layers:
            shape = layer.compute_output_shape(shape)
        return shape

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        shape = tuple(output_shape)
        for layer in reversed(self.layers):
            shape = layer.compute_input_shape(shape)
        return shape

    def get_config(self) -> Config:
        return {**super().get_config(), "layers": serialize(self.layers)}

    @classmethod
    def from_config(cls, config: Config) -> InvertibleSequential:
        config = dict(config)
        return cls(deserialize(config.pop("layers")), **config)
