"""Pre-activation residual networks with batch normalisation, such as ResNet-164."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer, check_integers
from tf_iresnet.layers.tracking import track
from tf_iresnet.models.compiled_loss import CompiledLoss
from tf_iresnet.models.training.events import Event
from tf_iresnet.models.training.model import Model
from tf_iresnet.models.training.replicated import BatchNormalization
from tf_iresnet.typing import ArrayLike, Config, Shape

_CONVOLUTIONS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}  # kernel sizes of a unit


@keras.saving.register_keras_serializable("training")
class ResidualUnit(keras.layers.Layer):
    """y = shortcut(x) + g(x), with g of normalisation, ReLU and convolution in turn.

    Where the shape changes, the shortcut is a 1x1 convolution of the first normalised, rectified x.

    Args:
      unit: "basic" (3x3, 3x3) or "bottleneck" (1x1, 3x3, 1x1, inside a quarter of the filters).
      filters: channels of the output.
      strides: of the first 3x3 convolution, and of the shortcut.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, unit: str, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.unit, self.filters, self.strides = unit, filters, strides
        sizes = _CONVOLUTIONS[unit]
        inner = filters // 4 if unit == "bottleneck" else filters
        widths = [*[inner] * (len(sizes) - 1), filters]
        policy = self.dtype_policy
        self.norms = [_norm(f"norm_{i}", policy) for i in range(len(sizes))]
        self.convolutions = [
            _convolution(width, size, strides if i == sizes.index(3) else 1, f"conv_{i}", policy)
            for i, (size, width) in enumerate(zip(sizes, widths, strict=True))
        ]
        self.shortcut: keras.layers.Layer | None = None

    def build(self, input_shape: Shape) -> None:
        if self.strides > 1 or input_shape[-1] != self.filters:
            self.shortcut = _convolution(
                self.filters, 1, self.strides, "shortcut", self.dtype_policy
            )
            self.shortcut.build(input_shape)
        track(self, "norms", self.norms)
        track(self, "convolutions", self.convolutions)
        shape = input_shape
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            norm.build(shape)
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = input_shape
        for convolution in self.convolutions:
            shape = convolution.compute_output_shape(shape)
        return shape

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        y = first = tf.nn.relu(self.norms[0](x, training=training))
        y = self.convolutions[0](y)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            y = convolution(tf.nn.relu(norm(y, training=training)))
        kept = x if self.shortcut is None else self.shortcut(first)
        return tf.cast(kept, y.dtype) + y

    def get_config(self) -> Config:
        own = {"unit": self.unit, "filters": self.filters, "strides": self.strides}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("training")
class ResNet(Model):
    """A pre-activation ResNet of three stages, each at half the resolution of the one before.

    A 3x3 convolution, n units in each stage, then batch normalisation, ReLU, global average
    pooling and a dense layer. The depth counts the linear layers: 9 n + 2 with bottlenecks, 6 n + 2
    without. ResNet-164 is depth 164 of bottlenecks with width 16.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      depth: number of linear layers on the longest path.
      width: channels of the first stage's 3x3 convolutions, doubled in each further stage.
      unit: "bottleneck" or "basic".
      ema_momentum: of the weights' moving average for evaluation; None for none.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> model = ResNet((8, 8, 1), 10, depth=11, width=4)
    >>> model(tf.zeros((2, 8, 8, 1))).shape
    TensorShape([2, 10])

    Source: He et al., Identity Mappings in Deep Residual Networks; the baseline of table 2.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        depth: int = 164,
        width: int = 16,
        unit: str = "bottleneck",
        ema_momentum: float | None = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        self.event_shape = check_integers("event_shape", event_shape, "axis of one image")
        if len(self.event_shape) != 3:
            raise ValueError(f"event_shape must be (height, width, channels), got {event_shape!r}.")
        self.classes = check_integer("classes", classes, 2)
        self.depth = check_integer("depth", depth, 1)
        self.width = check_integer("width", width, 1)
        if unit not in _CONVOLUTIONS:
            raise ValueError(f'unit must be "bottleneck" or "basic", got {unit!r}.')
        self.unit = unit
        layers = 3 * len(_CONVOLUTIONS[unit])
        units, rest = divmod(self.depth - 2, layers)
        if units < 1 or rest:
            raise ValueError(
                f"depth must be {layers} n + 2 for {unit} units, such as {layers + 2} or "
                f"{18 * layers + 2}, got {depth!r}."
            )
        policy = self.dtype_policy
        expansion = 4 if unit == "bottleneck" else 1
        self.body = [_convolution(self.width, 3, 1, "stem", policy)]
        for stage in range(3):
            self.body += [
                ResidualUnit(
                    unit,
                    self.width * 2**stage * expansion,
                    strides=2 if stage and not index else 1,
                    dtype=policy,
                    name=f"stage_{stage}_unit_{index}",
                )
                for index in range(units)
            ]
        self.body.append(_norm("norm", policy))
        track(self, "body", self.body)
        # Logits in full precision: in bfloat16 the largest two are often equal.
        self.logits = keras.layers.Dense(self.classes, dtype=self.variable_dtype, name="logits")
        shape: Shape = (None, *self.event_shape)
        for layer in self.body:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.logits.build((None, shape[-1]))
        owner, event = f"the classifier {self.name}", Event(self.event_shape, self.variable_dtype)
        state = [v for layer in self.body for v in layer.non_trainable_variables]
        self._compose(CompiledLoss(owner, event, self, self._logits, state))

    def call(self, x: ArrayLike, training: bool | None = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]."""
        return self._logits(self._event.check(x), bool(training))

    def _logits(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        y = x
        for layer in self.body[:-1]:
            arguments = {"training": training} if isinstance(layer, ResidualUnit) else {}
            y = layer(y, **arguments)
        y = tf.nn.relu(self.body[-1](y, training=training))
        return self.logits(tf.reduce_mean(tf.cast(y, self.variable_dtype), axis=(1, 2)))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "classes": self.classes,
            "depth": self.depth,
            "width": self.width,
            "unit": self.unit,
        }


def _norm(name: str, policy: keras.DTypePolicy) -> keras.layers.Layer:
    # As in the invertible classifier's head: Keras' own 0.99 lags behind for hundreds of steps.
    return BatchNormalization(momentum=0.9, dtype=policy, name=name)


def _convolution(
    filters: int, size: int, strides: int, name: str, policy: keras.DTypePolicy
) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        dtype=policy,
        name=name,
    )
