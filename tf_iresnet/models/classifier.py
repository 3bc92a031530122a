"""Classifiers of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.arguments import (
    checked_choice,
    checked_flag,
    checked_instance,
    checked_integer,
    checked_integers,
    checked_widths,
    widths_of_scales,
)
from tf_iresnet.fixed_point import Picard, Solver
from tf_iresnet.initializers import checked_name
from tf_iresnet.layers.activations import ACTIVATIONS
from tf_iresnet.layers.branch import SpectralBranch
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.padding import InjectivePadding
from tf_iresnet.layers.spectral import SpectralLayer, checked_coeff, checked_normalization
from tf_iresnet.models.architecture import branch_options, scale_of_blocks
from tf_iresnet.models.features import FeatureClassifier


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetClassifier(FeatureClassifier):
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
      whitening: whether each scale's blocks start from uncorrelated channels (`Whitening`).
      power_iterations: of each spectral layer, see `SpectralDense`.
      normalization: "bound" for blocks proven to be invertible in every call, "power_iteration" for
        estimated norms; "auto" takes the bound where it costs at most 5 % of a training step.
      kernel_initializer: of the branches, by name: "delta_orthogonal", which starts with all
        that the bound allows (`tf_iresnet.initializers`), or one of Keras'.
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
        whitening: bool = False,
        power_iterations: int = 4,
        normalization: str = "auto",
        kernel_initializer: str = "glorot_uniform",
        solver: Solver | None = None,
        recompute: bool = False,
        ema_momentum: float | None = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, classes, ema_momentum, **kwargs)
        self.blocks = checked_integers("blocks", blocks, "scale")
        self.hidden = checked_widths(hidden, len(self.blocks))
        self.padding = checked_integer("padding", padding, 0)
        self.squeeze_first = checked_flag("squeeze_first", squeeze_first)
        self.kernel_sizes = checked_integers("kernel_sizes", kernel_sizes, "convolution")
        self.coeff = checked_coeff(coeff)
        self.activation = checked_choice("activation", activation, ACTIVATIONS)
        self.actnorm = checked_flag("actnorm", actnorm)
        self.whitening = checked_flag("whitening", whitening)
        self.power_iterations = checked_integer("power_iterations", power_iterations, 1)
        self.normalization = checked_normalization(normalization)
        self.kernel_initializer = checked_name(kernel_initializer)
        self.solver = Picard() if solver is None else solver
        self.recompute = checked_flag("recompute", recompute)
        checked_instance("solver", self.solver, Solver, "Picard()")
        self._build_features(self._make_layers())

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
            for branch in branches:
                branch.passes = SpectralLayer.passes  # no log-determinant
            squeeze = bool(index or self.squeeze_first)
            scales.append(scale_of_blocks(self, index, branches, squeeze))
        return scales

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "blocks": self.blocks,
            "hidden": self.hidden,
            "padding": self.padding,
            "squeeze_first": self.squeeze_first,
            "kernel_sizes": self.kernel_sizes,
            "coeff": self.coeff,
            "activation": self.activation,
            "actnorm": self.actnorm,
            "whitening": self.whitening,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "kernel_initializer": self.kernel_initializer,
            "solver": keras.saving.serialize_keras_object(self.solver),
            "recompute": self.recompute,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> IResNetClassifier:
        config = dict(config)
        config["solver"] = keras.saving.deserialize_keras_object(config["solver"])
        return cls(**config)
