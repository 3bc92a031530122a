"""A run's model as a SavedModel with its model card."""

import os
from pathlib import Path

from tf_iresnet.export import export_saved_model
from training.errors import RunError
from training.finished import Finished
from training.model_card import model_card


def write_saved_model(finished: Finished, out: str | os.PathLike[str]) -> None:
    """Exports the averaged weights, and a model card as README.md beside them.

    Args:
        finished: the run.
        out: the folder of one version, which TensorFlow Serving wants to be a number.

    Raises:
        RunError: the folder exists or cannot be written to, or its name is no number.
    """
    path = Path(out)
    if not path.name.isdecimal():
        raise RunError(f"{str(out)!r} names no version; end it with a number, as in {path / '1'}")
    if path.exists():
        raise RunError(f"{str(out)!r} exists; give the next number as a new version")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(out)!r} cannot be written ({error.strerror})") from error
    export_saved_model(finished.model, path)
    (path / "README.md").write_text(model_card(finished), encoding="utf-8")
