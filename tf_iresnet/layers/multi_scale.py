"""Several scales whose latents make one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_flag, check_instances
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.context import common_context_size, context_keyword
from tf_iresnet.layers.invertible import InvertibleLayer, zero_log_det
from tf_iresnet.layers.lipschitz import inverse_bound_of
from tf_iresnet.layers.sharing import deserialize, serialize
from tf_iresnet.layers.tracking import track
from tf_iresnet.norms.dense import multiply_up
from tf_iresnet.typing import Config, Context, Shape, StaticShape

_ROUNDED_UP = 1.0 + 2.0**-50


@keras.saving.register_keras_serializable("tf_iresnet")
class MultiScale(InvertibleLayer):
    r"""Runs scales in turn; after each but the last, half of the channels leave as latents.

    The output is one flat tensor [batch, d] of all latents, the first scale's first, where d is
    the number of the input's dimensions. The layer keeps no latents: the inverse uses just what it
    is given.

    Args:
      scales: invertible layers, first to last; each starts with its own `Squeeze` if wanted.
      factor_out: whether half of the channels leave after each scale but the last; without it
        the scales run in turn and only the last output is flattened.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if there is no scale, one is not invertible, or channels do not halve.

    Example:
    >>> from tf_iresnet.layers import Squeeze
    >>> flow = MultiScale([Squeeze(), Squeeze()])
    >>> flow(np.zeros((2, 8, 8, 1), "float32")).shape
    TensorShape([2, 64])

    Source: Dinh, Sohl-Dickstein, Bengio 2017 (Real NVP), section 3.6; Invertible Residual
    Networks, section 5.3.
    """

    def __init__(
        self, scales: Iterable[InvertibleLayer], factor_out: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scales = check_instances("scales", scales, InvertibleLayer, "invertible layer")
        self.factor_out = check_flag("factor_out", factor_out)
        track(self, "scales", self.scales)
        self._context_size = common_context_size(self.name, self.scales)
        self._shapes: list[tuple[int, ...]] = []  # of each scale's output, without the batch

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        shape = tuple(input_shape)
        self._shapes = []
        for index, scale in enumerate(self.scales):
            if not scale.built:
                scale.build(shape)
            shape = tuple(scale.compute_output_shape(shape))
            self._shapes.append(shape[1:])
            if self.factor_out and index + 1 < len(self.scales):
                if shape[-1] % 2:
                    raise ValueError(
                        f"{self.name}: scale {index} ends with {shape[-1]} channels, which do not "
                        "halve; start it with a Squeeze, or pass factor_out=False."
                    )
                shape = (*shape[:-1], shape[-1] // 2)

    def _split(self, x: tf.Tensor, index: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns what goes on after a scale, and the latents that leave, flat."""
        size = math.prod(self._shapes[index])
        if index + 1 == len(self.scales):
            return x, [tf.reshape(x, [-1, size])]
        if not self.factor_out:
            return x, []
        half = x.shape[-1] // 2
        return x[..., :half], [tf.reshape(x[..., half:], [-1, size // 2])]

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the latents in the output, without the batch, in order."""
        *first, last = self._shapes
        left = [(*shape[:-1], shape[-1] // 2) for shape in first] if self.factor_out else []
        return (*left, last)

    def latents(self, y: tf.Tensor) -> list[tf.Tensor]:
        """Returns the latents in an output [batch, d], in ``latent_shapes``."""
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        parts = tf.split(y, sizes, axis=1)
        shapes = zip(parts, self.latent_shapes, strict=True)
        return [tf.reshape(part, [-1, *shape]) for part, shape in shapes]

    @property
    def context_size(self) -> int | None:
        return self._context_size

    def _adapt(self, parts, contexts, due):
        latents: list[list[tf.Tensor]] = [[] for _ in parts]
        for index, scale in enumerate(self.scales):
            split = [self._split(x, index) for x in scale._adapt(parts, contexts, due)]
            parts = [x for x, _ in split]
            for collected, (_, left) in zip(latents, split, strict=True):
                collected += left
        return [tf.concat(collected, axis=1) for collected in latents]

    def forward(self, x: tf.Tensor, training: bool = False, context: Context = None) -> tf.Tensor:
        latents = []
        for index, scale in enumerate(self.scales):
            x = tf.cast(x, scale.variable_dtype)
            y = scale.forward(x, training=training, **context_keyword(scale, context))
            x, left = self._split(y, index)
            latents += left
        return tf.concat(latents, axis=1)

    def _log_det(self, x, seed, log_det, training, context=None):
        total, latents = zero_log_det(x), []
        for index, scale in enumerate(self.scales):
            own = randomness.fold_in(seed, index)
            x = tf.cast(x, scale.variable_dtype)
            x, value = scale._log_det(x, own, log_det, training, **context_keyword(scale, context))
            total += tf.cast(value, total.dtype)
            x, left = self._split(x, index)
            latents += left
        return tf.concat(latents, axis=1), total

    def _inverse(self, y, context=None):
        latents = self.latents(y)  # the last ones are where the inverse starts
        result = FixedPointResult.exact(latents.pop())
        for index, scale in reversed(list(enumerate(self.scales))):
            y = tf.cast(result.x, scale.variable_dtype)
            earlier = scale._inverse(y, **context_keyword(scale, context))
            result = result.then(earlier, scale.amplification)
            if index and self.factor_out:
                result = result._replace(x=tf.concat([result.x, latents.pop()], axis=-1))
        return result

    def amplification(self) -> tf.Tensor:
        *first, factor = [scale.amplification() for scale in self.scales]
        for value in reversed(first):
            kept = tf.maximum(factor, 1.0) if self.factor_out else factor
            factor = _ROUNDED_UP * value * kept
        return factor

    def sublayers(self) -> Sequence[InvertibleLayer]:
        return self.scales

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        if sublayers is None:
            sublayers = [inverse_bound_of(scale) for scale in self.scales]
        *first, bound = sublayers
        for value in reversed(first):
            # Beside what comes back from below stand the latents that left here, unchanged.
            bound = multiply_up([value, max(bound, 1.0) if self.factor_out else bound])
        return bound

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return (input_shape[0], math.prod(input_shape[1:]))

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        if self._event_shape is None:
            raise ValueError(
                f"{self.name} can't tell its input's shape from a flat output of shape "
                f"{tuple(output_shape)}; build it first, for example by build((None, 28, 28, 1))."
            )
        return (output_shape[0], *self._event_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "scales": serialize(self.scales),
            "factor_out": self.factor_out,
        }

    @classmethod
    def from_config(cls, config: Config) -> MultiScale:
        config = dict(config)
        return cls(deserialize(config.pop("scales")), **config)
