"""Classifiers on Glow's layers, for table 3."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.models.features import FeatureClassifier
from training.baselines.architectures import Glow


@keras.saving.register_keras_serializable("training")
class GlowClassifier(FeatureClassifier):
    """Logits = head(f(x)) with f the steps of Glow, of which no channel leaves.

    The head is that of `tf_iresnet.models.IResNetClassifier`.

    Args:
        event_shape: shape of one image, (height, width, channels).
        classes: number of classes, at least 2.
        blocks: steps of each scale, which starts with a squeeze.
        hidden: channels of the networks, one number or one for each scale.
        kernel_sizes: of the networks' layers.
        coupling: "affine" or "additive".
        ema_momentum: of the weights' moving average for evaluation; None for none.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: an argument is out of range, or a size does not divide.

    Source: Invertible Residual Networks, table 3.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        blocks: Sequence[int] = (6, 6, 6),
        hidden: int | Sequence[int] = 64,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        coupling: str = "affine",
        ema_momentum: float | None = 0.999,
        **kwargs: Any,
    ):
        super().__init__(event_shape, classes, ema_momentum, **kwargs)
        width = hidden if isinstance(hidden, int) else tuple(hidden)
        self.architecture = Glow(tuple(blocks), width, tuple(kernel_sizes), coupling)
        self._build_features(
            self.architecture.scales(self.event_shape, factor_out=False, dtype=self.dtype_policy)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.architecture.get_config()}
