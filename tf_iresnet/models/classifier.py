"""Classifiers of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.fixed_point import Picard, Solver
from tf_iresnet.layers.branch import SpectralBranch
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.padding import InjectivePadding
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.models.architecture import branch_options, scale_of_blocks
from tf_iresnet.models.arguments import (
    checked_instance,
    checked_integer,
    checked_integers,
    checked_widths,
    widths_of_scales,
)
from tf_iresnet.models.classification import Classification
from tf_iresnet.models.distribution import BatchNormalization
from tf_iresnet.models.model import InvertibleModel


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetClassifier(Classification, InvertibleModel):
    r"""Logits = head(f(x)) with f a stack of invertible residual blocks.

    f: injective padding, then for each scale (a squeeze and) ActNorm and a residual block in
    turn. The head is BatchNorm, ReLU, global average pooling and Dense, as in the paper. f maps
    images injectively to features, so that `decode` recovers an image from its features.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      blocks: residual blocks of each scale.
      hidden: channels inside the branches of each scale, or one number for all.
      padding: channels of zeros to append to the image; 0 for none.
      squeeze_first: whether the first scale starts with a squeeze, as the others do.
      kernel_sizes: of the branches' convolutions.
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint.
      activation: of the branches; the very first block has none before its first convolution.
      actnorm: whether ActNorm comes before each block.
      power_iterations: per training step.
      normalization: "power_iteration", or "bound" for blocks proven invertible at every step.
      solver: of the inverse; by default `Picard()`.
      recompute: whether blocks keep their input alone for the backward pass: less memory, more
        time.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Example:
    >>> model = IResNetClassifier((8, 8, 1), 10, blocks=(1, 1), hidden=8, padding=3)
    >>> x = np.linspace(0.0, 1.0, 128, dtype="float32").reshape(2, 8, 8, 1)
    >>> model(x).shape
    TensorShape([2, 10])
    >>> bool(np.allclose(model.decode(model.encode(x)), x, atol=1e-4))
    True

    Source: Invertible Residual Networks, sections 5.1 and 5.2.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        blocks: Sequence[int] = (7, 7, 7),
        hidden: int | Sequence[int] = (32, 64, 128),
        padding: int = 3,
        squeeze_first: bool = False,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        coeff: float | None = 0.9,
        activation: str = "elu",
        actnorm: bool = True,
        power_iterations: int = 1,
        normalization: str = "power_iteration",
        solver: Solver | None = None,
        recompute: bool = False,
        ema_momentum: float | None = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_momentum, **kwargs)
        self.event_shape = checked_integers("event_shape", event_shape, "axis of one image")
        if len(self.event_shape) != 3:
            raise ValueError(f"event_shape must be (height, width, channels), got {event_shape!r}.")
        self.classes = checked_integer("classes", classes, 2)
        self.blocks = checked_integers("blocks", blocks, "scale")
        self.hidden = checked_widths(hidden, len(self.blocks))
        self.padding = checked_integer("padding", padding, 0)
        self.squeeze_first = bool(squeeze_first)
        self.kernel_sizes = checked_integers("kernel_sizes", kernel_sizes, "convolution")
        self.coeff = coeff
        self.activation = activation
        self.actnorm = bool(actnorm)
        self.power_iterations = power_iterations
        self.normalization = normalization
        self.solver = Picard() if solver is None else solver
        self.recompute = bool(recompute)
        checked_instance("solver", self.solver, Solver, "Picard()")

        policy = self.dtype_policy
        self.flow = InvertibleSequential(self._make_layers(), name="flow", dtype=policy)
        self.flow.build((None, *self.event_shape))
        self.head = keras.Sequential(
            [
                # As in the paper's code; Keras' own 0.99 lags behind for hundreds of steps.
                BatchNormalization(momentum=0.9, dtype=policy),
                keras.layers.ReLU(dtype=policy),
                keras.layers.GlobalAveragePooling2D(dtype=policy),
                # Logits in full precision: in bfloat16 the largest two are often equal.
                keras.layers.Dense(self.classes, dtype=self.variable_dtype),
            ],
            name="head",
        )
        self.head.autocast = False  # the layers cast; a Sequential would round to float32
        self.head.build(self.flow.compute_output_shape((None, *self.event_shape)))
        self._finish_build()

    def _make_layers(self) -> list[InvertibleLayer]:
        scales: list[InvertibleLayer] = []
        if self.padding:
            scales.append(InjectivePadding(self.padding, dtype=self.dtype_policy, name="padding"))
        widths = widths_of_scales(self.hidden, len(self.blocks))
        for index, (count, width) in enumerate(zip(self.blocks, widths, strict=True)):
            branches = [
                SpectralBranch(
                    width,
                    self.kernel_sizes,
                    input_activation=bool(index or block),
                    **branch_options(self),
                )
                for block in range(count)
            ]
            squeeze = bool(index or self.squeeze_first)
            scales.append(scale_of_blocks(self, index, branches, squeeze))
        return scales

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]."""
        features = self.flow.forward(self._checked(x), training=bool(training))
        return self.head(features, training=training)

    def encode(self, x: Any) -> tf.Tensor:
        """Returns the features f(x), the last invertible feature map.

        Args:
          x: images, [batch, *event_shape].

        Returns:
          [batch, height, width, channels] of the last scale.
        """
        return self.flow.forward(self._checked(x))

    def decode(self, features: Any, return_result: bool = False) -> Any:
        """Returns the images of features.

        Args:
          features: of the shape that `encode` returns.
          return_result: whether to return the solver's `FixedPointResult` instead.

        Returns:
          x [batch, *event_shape], or the result.

        Raises:
          ValueError: if the features have another shape.
          ConvergenceError: in eager code, if an example did not converge.
        """
        shape = self.flow.compute_output_shape((None, *self.event_shape))[1:]
        features = self._checked_shape("features", features, shape)
        return self.flow.inverse(features, return_result=return_result)

    def _forward_state(self) -> list[keras.Variable]:
        return self.head.non_trainable_variables

    def get_config(self) -> dict[str, Any]:
        return {
            **self._base_config(),
            "event_shape": self.event_shape,
            "classes": self.classes,
            "blocks": self.blocks,
            "hidden": self.hidden,
            "padding": self.padding,
            "squeeze_first": self.squeeze_first,
            "kernel_sizes": self.kernel_sizes,
            "coeff": self.coeff,
            "activation": self.activation,
            "actnorm": self.actnorm,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "solver": keras.saving.serialize_keras_object(self.solver),
            "recompute": self.recompute,
            "ema_momentum": self.ema_momentum,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> IResNetClassifier:
        config = dict(config)
        config["solver"] = keras.saving.deserialize_keras_object(config["solver"])
        return cls(**config)
