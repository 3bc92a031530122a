"""Classifiers of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.models.architecture import IResNet
from tf_iresnet.models.features import FeatureClassifier
from tf_iresnet.options import takes
from tf_iresnet.typing import Config


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetClassifier(FeatureClassifier):
    r"""Logits = head(f(x)) with f a stack of invertible residual blocks.

    f is injective padding, then for each scale (a squeeze and) ActNorm and a residual block in
    turn. The head is BatchNorm, ReLU, global average pooling and Dense, as in the paper. f maps
    images injectively to features, so that `decode` recovers an image from its features.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      padding: channels of zeros to append to the image; 0 for none.
      squeeze_first: whether the first scale starts with a squeeze, as the others do.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      blocks: residual blocks of each scale.
      hidden: channels inside the branches of each scale, or one number for all.
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint.
      activation: of the branches; the very first block has none before its first convolution.
      architecture: an `IResNet`, whose options, the four above among them, are keywords here, too.
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

    architecture: IResNet

    @takes(
        IResNet, "architecture", blocks=(7, 7, 7), hidden=(32, 64, 128), coeff=0.9, activation="elu"
    )
    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        padding: int = 3,
        squeeze_first: bool = False,
        ema_momentum: float | None = 0.999,
        architecture: IResNet,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            event_shape,
            classes,
            architecture,
            padding=padding,
            squeeze_first=squeeze_first,
            ema_momentum=ema_momentum,
            **kwargs,
        )

    def get_config(self) -> Config:
        return {**super().get_config(), **self.architecture.get_config()}
