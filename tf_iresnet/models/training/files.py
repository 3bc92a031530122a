"""The files that a model is written to."""

from __future__ import annotations

import inspect
import os
from typing import Any

import keras

from tf_iresnet.export import export_saved_model
from tf_iresnet.keras_private import writes_legacy_file


def check_no_legacy_file(model: keras.Model, path: str | os.PathLike[str] | None = None) -> None:
    """Refuses files of HDF5, Keras' older format, which loses optimizers and compiled losses.

    Args:
      model: what is written.
      path: of the file; None to ask what Keras is writing.

    Raises:
      ValueError: if the file is one of HDF5.
    """
    if path is not None and str(path).endswith((".h5", ".hdf5")):
        got = f"got {str(path)!r}"
    elif path is None and writes_legacy_file():  # by `keras.saving.save_model`, not by `save`
        got = "got one of HDF5"
    else:
        return
    raise ValueError(
        f"{model.name} is saved to a file .keras, or its weights alone by save_weights to one "
        f".weights.h5, {got}: Keras' older format loses optimizers and compiled losses."
    )


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str,
    verbose: bool | None,
    input_signature: object,
    **options: Any,
) -> None:
    """Writes a SavedModel by `tf_iresnet.export.export_saved_model`, with its signatures.

    Args:
      model: what is written.
      path: the folder to make.
      format: "tf_saved_model", which is all that there is.
      verbose: whether to say where it was written.
      input_signature: None, since the signatures are those of `export_saved_model`.
      **options: of `export_saved_model`.

    Raises:
      ValueError: if an argument is none of these, or ``path`` exists.
    """
    if format != "tf_saved_model":
        raise ValueError(f'format must be "tf_saved_model", got {format!r}.')
    known = inspect.signature(export_saved_model).parameters
    others = {name: value for name, value in options.items() if name not in known}
    for name, value in {"input_signature": input_signature, **others}.items():
        if value is not None:
            raise ValueError(
                f"{name} is not used in the export of {model.name}, whose signatures are those "
                f"of tf_iresnet.export.export_saved_model, got {value!r}; leave it out."
            )
        options.pop(name, None)
    export_saved_model(model, path, **options)
    if verbose:
        print(f"{model.name} is written to {os.fspath(path)}.")
