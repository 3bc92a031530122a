"""Density models of the baselines."""

from typing import Any

import keras

from tf_iresnet.models.density import DensityModel


@keras.saving.register_keras_serializable("training")
class BaselineFlow(DensityModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a baseline's layers.

    All is as in `tf_iresnet.models.density.DensityModel`, but that nothing bounds a Lipschitz
    constant, and that there is no context. Networks compute in the dtype of the weights.

    Args:
      *args: the shape of one example, and what the scales are made of.
      **options: of `DensityModel`, except for `context_size`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.
    """

    def __init__(self, *args: Any, **options: Any):
        size = options.get("context_size")
        if size is not None:
            raise ValueError(f"context_size={size!r} is for IResNetFlow; leave it out.")
        super().__init__(*args, **options)

    def get_config(self) -> dict[str, Any]:
        architecture = keras.saving.serialize_keras_object(self.architecture)
        return {**super().get_config(), "architecture": architecture}
