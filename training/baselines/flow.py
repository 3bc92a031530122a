"""Density models of the baselines."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.models.architecture import Architecture
from tf_iresnet.models.density import DensityModel
from tf_iresnet.typing import Config


@keras.saving.register_keras_serializable("training")
class BaselineFlow(DensityModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a baseline's layers.

    It differs from other models of `tf_iresnet.models.density.DensityModel` in that nothing bounds
    a Lipschitz constant, and that there is no context. Networks compute in the dtype of the
    weights.

    Args:
      event_shape: the shape of one example.
      architecture: what the scales are made of.
      **options: of `DensityModel`, except for `context_size`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.
    """

    def __init__(
        self, event_shape: Sequence[int], architecture: Architecture, **options: Any
    ) -> None:
        size = options.get("context_size")
        if size is not None:
            raise ValueError(f"context_size={size!r} is for IResNetFlow; leave it out.")
        super().__init__(event_shape, architecture, **options)

    def get_config(self) -> Config:
        architecture = keras.saving.serialize_keras_object(self.architecture)
        return {**super().get_config(), "architecture": architecture}
