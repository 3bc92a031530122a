"""Classifiers on Glow's layers, for table 3."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.models.features import FeatureClassifier
from tf_iresnet.options import takes
from tf_iresnet.typing import Config
from training.baselines.architectures import Glow


@keras.saving.register_keras_serializable("training")
class GlowClassifier(FeatureClassifier):
    """Logits = head(f(x)) with f the steps of Glow, of which no channel leaves.

    The head is that of `tf_iresnet.models.IResNetClassifier`.

    Args:
      event_shape: shape of one image, (height, width, channels).
      classes: number of classes, at least 2.
      architecture: the steps, whose options are keywords here, too.
      **options: of `tf_iresnet.models.features.FeatureClassifier`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Source: Invertible Residual Networks, table 3.
    """

    @takes(Glow, "architecture", blocks=(6, 6, 6), hidden=64)
    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        architecture: Glow,
        **options: Any,
    ) -> None:
        super().__init__(event_shape, classes, architecture, **options)

    def get_config(self) -> Config:
        return {**super().get_config(), **self.architecture.get_config()}
