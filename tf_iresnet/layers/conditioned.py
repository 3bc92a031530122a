"""A conditional layer at one context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.arguments import check_instance
from tf_iresnet.layers.context import check_context_vector, context_keyword
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.lipschitz import inverse_bound_of
from tf_iresnet.typing import Config, Context, Inputs, Shape, StaticShape


@keras.saving.register_keras_serializable("tf_iresnet")
class Conditioned(InvertibleLayer):
    r"""x -> f(x; c) for one c: a conditional layer as an unconditional one, of the same weights.

    It serves where no context is passed on: in a `keras.Sequential`, a distribution p(x | c) or a
    Markov chain.

    Args:
      layer: a conditional layer, such as an `InvertibleSequential` of conditional blocks.
      context: c, [context_size]; a constant, saved with the layer.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the layer takes no context, or one of another size.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> block = InvertibleResidual(hidden=8, context_size=2)
    >>> x, c = np.ones((3, 5), "float32"), [1.0, 0.0]
    >>> bool(np.allclose(Conditioned(block, c)(x), block(x, context=[c] * 3)))
    True

    Source: no part of the papers.
    """

    def __init__(self, layer: InvertibleLayer, context: Context, **kwargs: Any) -> None:
        check_instance("layer", layer, InvertibleLayer, "InvertibleResidual(context_size=2)")
        super().__init__(**{"dtype": layer.dtype_policy, **kwargs})
        self.layer = layer
        row = check_context_vector(layer.name, context, layer.context_size, self.variable_dtype)
        self._context = np.asarray(row)
        if layer.built and layer._event_shape is not None:
            self.build((None, *layer._event_shape))

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if not self.layer.built:
            self.layer.build(tuple(input_shape))

    def _rows(self, x: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(self._context, [tf.shape(x)[0], len(self._context)])

    def _condition(self, x: tf.Tensor) -> Inputs:
        return context_keyword(self.layer, self._rows(x))

    def _adapt(self, parts, contexts, due):
        return self.layer._adapt(parts, [self._rows(x) for x in parts], due)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.layer.forward(x, training=training, **self._condition(x))

    def _log_det(self, x, seed, log_det, training):
        return self.layer._log_det(x, seed, log_det, training, **self._condition(x))

    def _inverse(self, y):
        return self.layer._inverse(y, **self._condition(y))

    def amplification(self) -> tf.Tensor:
        return self.layer.amplification()

    def sublayers(self) -> Sequence[InvertibleLayer]:
        return (self.layer,)

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        if not np.isfinite(self._context).all():
            return float("inf")
        return inverse_bound_of(self.layer) if sublayers is None else sublayers[0]

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return self.layer.compute_output_shape(input_shape)

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        return self.layer.compute_input_shape(output_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "context": self._context.tolist(),
        }

    @classmethod
    def from_config(cls, config: Config) -> Conditioned:
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)
