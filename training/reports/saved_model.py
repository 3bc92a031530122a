"""A run's model as a SavedModel with its model card."""

from pathlib import Path

from tf_iresnet.certificate import Certificate
from tf_iresnet.export import export_saved_model
from training.errors import RunError
from training.measures.certify import certified, check_rescale, refuse_baseline, rescaled
from training.measures.finished import Finished
from training.reports.model_card import model_card
from training.runs.files import trouble
from training.typing import PathLike


def write_saved_model(
    finished: Finished,
    out: PathLike,
    *,
    below: float | None = None,
    images: str = "float32",
    probes: int = 1,
) -> Certificate | None:
    """Certifies and exports the averaged weights, with a model card as README.md.

    Args:
      finished: the run.
      out: the folder of one version, which TensorFlow Serving wants to be a number.
      below: blocks whose bound is not below this are scaled until it is; None for none.
      images: "float32", or "uint8" for bytes.
      probes: how many draws a log-density is the mean of.

    Returns:
      What is proven of the exported model, as `certificate.json` in its folder says; None for a
      baseline.

    Raises:
      RunError: if the folder exists or cannot be written to, its name is no number, or a part of
        the model has no known bound.
    """
    finished.check_invertible()
    check_rescale(below)
    if below is not None:
        refuse_baseline(finished)
    levels = finished.dataset.spec.levels
    if images == "uint8" and not finished.is_flow and levels != 256:
        raise RunError(
            f"--images uint8 is for images of 256 levels, which a classifier's export divides by "
            f"255; {finished.dataset.spec.name} has {levels}, leave it out"
        )
    path = Path(out)
    if not path.name.isdecimal():
        raise RunError(f"{str(out)!r} names no version; end it with a number, as in {path / '1'}")
    if path.exists():
        raise RunError(f"{str(out)!r} exists; give the next number as a new version")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(out)!r} cannot be written: {trouble(error)}") from error
    finished.model.converge_spectral_state()
    if below is not None:
        rescaled(finished.model, below)  # refuses before anything is written
    certificate = None if finished.is_baseline else certified(finished.model)
    card = model_card(finished, certificate, rescaled=below is not None)
    try:
        export_saved_model(finished.model, path, images=images, probes=probes, card=card)
    except ValueError as error:
        raise RunError(f"{finished.experiment.name} cannot be exported so: {error}") from error
    except OSError as error:
        raise RunError(f"{str(out)!r} cannot be written: {trouble(error)}") from error
    return certificate
