"""Certificates of a run's model, and what it costs to make an unproven one provable."""

import keras

from tf_iresnet import certify, rescale
from tf_iresnet.certificate import Certificate, Rescaling
from training.errors import RunError
from training.measures.finished import Finished
from training.measures.measuring import measure
from training.runs.files import write_json
from training.typing import Results


def certify_run(
    finished: Finished, *, below: float | None = None, images: int = 500
) -> tuple[str, tuple[str, ...]]:
    """Certifies the averaged weights, and writes `certificate.json`.

    The file describes the weights that the run holds. With `below` those in memory are scaled and
    measured before and after, and the file says in "rescaled" what came of it; the run's
    checkpoints stay as they are.

    Args:
      finished: the run.
      below: blocks whose bound is not below this are scaled until it is; None for none.
      images: how many validation examples measure the cost of scaling.

    Returns:
      The certificate as a table, and what is not proven.

    Raises:
      RunError: if a part has no known bound, or `below` or `images` cannot be used.
      DataError: if there are fewer validation examples.
    """
    finished.check_invertible()
    check_rescale(below)
    refuse_baseline(finished)
    certificate = certified(finished.model)
    content: Results = {"steps": finished.step, **certificate.to_dict()}
    table = str(certificate)
    if below is not None:
        before = _cost(finished, images)
        rescaling = rescaled(finished.model, below)
        certificate = rescaling.certificate
        after = _cost(finished, images)
        content["rescaled"] = {
            "below": below,
            "validation": {"before": before, "after": after},
            **rescaling.to_dict(),
        }
        changes = [
            f"{name}: {before[name]:.6g} before, {after[name]:.6g} after scaling, on "
            f"{before['images']} validation examples."
            for name in before
            if name != "images"
        ]
        table = "\n".join([table, "", f"Rescaled below {below:g}:", str(rescaling), *changes])
    write_json(finished.run.folder / "certificate.json", content)
    return table, certificate.not_proven


def check_rescale(below: float | None) -> None:
    """Refuses a bound that no block can be scaled below.

    Args:
      below: the bound; None for no scaling.

    Raises:
      RunError: if it is not in (0, 1].
    """
    if below is not None and not 0 < below <= 1:
        raise RunError(f"--rescale {below} cannot be used; give a number in (0, 1]")


def refuse_baseline(finished: Finished) -> None:
    """Refuses a model that has no residual blocks.

    Args:
      finished: the run.

    Raises:
      RunError: if it is a baseline.
    """
    if finished.is_baseline:
        raise RunError(
            f"{finished.experiment.name} is a baseline without residual blocks, so there is no "
            "Lipschitz constant to certify or rescale; give the folder of an i-ResNet"
        )


def certified(model: keras.Model) -> Certificate:
    """Certifies a model.

    Raises:
      RunError: if a part has no known bound.
    """
    try:
        return certify(model)
    except ValueError as error:
        raise RunError(str(error)) from error


def rescaled(model: keras.Model, below: float) -> Rescaling:
    """Scales a model's blocks until their bounds are below a number.

    Args:
      model: the model; its weights change.
      below: the number.

    Returns:
      What was scaled, and the certificate of the scaled model.

    Raises:
      RunError: if a part has no known bound, or cannot be scaled.
    """
    try:
        return rescale(model, below)
    except ValueError as error:
        raise RunError(str(error)) from error


def _cost(finished: Finished, images: int) -> Results:
    results = measure(finished, "validation", images)
    return {k: results[k] for k in ("bits_per_dim", "error_percent", "images") if k in results}
