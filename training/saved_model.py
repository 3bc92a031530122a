"""A run's model as a SavedModel with its model card."""

import os
from pathlib import Path

from tf_iresnet.certificate import Certificate
from tf_iresnet.export import export_saved_model
from training.certify import certified, check_rescale, refuse_baseline, rescaled
from training.errors import RunError
from training.finished import Finished
from training.model_card import model_card


def write_saved_model(
    finished: Finished, out: str | os.PathLike[str], *, below: float | None = None
) -> Certificate | None:
    """Certifies and exports the averaged weights, with a model card as README.md.

    Args:
        finished: the run.
        out: the folder of one version, which TensorFlow Serving wants to be a number.
        below: blocks whose bound is not below this are scaled until it is; None for none.

    Returns:
        What is proven of the exported model; `certificate.json` in its folder says the same.
        Nothing for a baseline.

    Raises:
        RunError: the folder exists or cannot be written to, its name is no number, or a part of
            the model has no known bound.
    """
    finished.check_invertible()
    check_rescale(below)
    if below is not None:
        refuse_baseline(finished)
    path = Path(out)
    if not path.name.isdecimal():
        raise RunError(f"{str(out)!r} names no version; end it with a number, as in {path / '1'}")
    if path.exists():
        raise RunError(f"{str(out)!r} exists; give the next number as a new version")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(out)!r} cannot be written ({error.strerror})") from error
    finished.model.converge_spectral_state()
    if below is not None:
        rescaled(finished.model, below)  # refuses before anything is written
    elif not finished.is_baseline:
        certified(finished.model)  # so does this
    export_saved_model(finished.model, path)
    certificate = None if finished.is_baseline else certified(finished.model)
    card = model_card(finished, certificate, rescaled=below is not None)
    (path / "README.md").write_text(card, encoding="utf-8")
    return certificate
