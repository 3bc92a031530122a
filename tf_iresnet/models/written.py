"""The files that a model is written to."""

from __future__ import annotations

import os
from typing import Any

import keras

from tf_iresnet.keras_private import writes_legacy_file


class WrittenModel(keras.Model):
    """A Keras model whose `save` writes ``.keras`` files, and whose `export` a SavedModel."""

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Writes the model and its training as `keras.Model.save` does, to a ``.keras`` file.

        Raises:
          ValueError: for a file of HDF5, Keras' older format.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(self._no_legacy_file(f"got {str(filepath)!r}"))
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        if writes_legacy_file():  # by `keras.saving.save_model`, past `save`
            raise ValueError(self._no_legacy_file("got one of HDF5"))
        return super().get_config()

    def _no_legacy_file(self, got: str) -> str:
        return (
            f"{self.name} is saved to a file .keras, or its weights alone by save_weights to one "
            f".weights.h5, {got}: Keras' older format loses optimizers and compiled losses."
        )

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel by `tf_iresnet.export.export_saved_model`, with its signatures.

        Args:
          filepath: the folder to make.
          format: "tf_saved_model", which is all that there is.
          verbose: whether to say where it was written.
          input_signature: None, since the signatures are those of `export_saved_model`.
          **kwargs: none.

        Raises:
          ValueError: if an argument is none of these, or ``filepath`` exists.
        """
        from tf_iresnet.export import export_saved_model

        if format != "tf_saved_model":
            raise ValueError(f'format must be "tf_saved_model", got {format!r}.')
        options = {"input_signature": input_signature, **kwargs}
        for name, value in options.items():
            if value is not None:
                raise ValueError(
                    f"{name} is not used in the export of {self.name}, whose signatures are those "
                    f"of tf_iresnet.export.export_saved_model, got {value!r}; leave it out."
                )
        export_saved_model(self, filepath)
        if verbose:
            print(f"{self.name} is written to {os.fspath(filepath)}.")
