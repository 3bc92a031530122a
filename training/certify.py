"""Certificates of a run's model, and what it costs to make an unproven one provable."""

from typing import Any

from tf_iresnet import certify
from tf_iresnet.certificate import Certificate
from training.errors import RunError
from training.evaluate import measure
from training.files import write_json
from training.finished import Finished


def certify_run(
    finished: Finished, *, rescale: float | None = None, images: int = 500
) -> tuple[str, tuple[str, ...]]:
    """Certifies the averaged weights, and writes `certificate.json`.

    The file describes the weights that the run holds. With `rescale` those in memory are scaled
    and measured before and after, and the file says in "rescaled" what came of it; the run's
    checkpoints stay as they are.

    Args:
        finished: the run.
        rescale: blocks whose bound is not below this are scaled until it is; None for none.
        images: how many validation examples measure the cost of scaling.

    Returns:
        The certificate as a table, and what is not proven.

    Raises:
        RunError: a part has no known bound, or `rescale` or `images` cannot be used.
        DataError: there are fewer validation examples.
    """
    finished.check_invertible()
    check_rescale(rescale)
    refuse_baseline(finished)
    certificate = certified(finished.model)
    content: dict[str, Any] = {"steps": finished.step, **certificate.to_dict()}
    table = str(certificate)
    if rescale is not None:
        before = _cost(finished, images)
        certificate = certified(finished.model, rescale)
        after = _cost(finished, images)
        content["rescaled"] = {
            "below": rescale,
            "validation": {"before": before, "after": after},
            **certificate.to_dict(),
        }
        changes = [
            f"{name}: {before[name]:.6g} before, {after[name]:.6g} after scaling, on "
            f"{before['images']} validation examples."
            for name in before
            if name != "images"
        ]
        table = "\n".join([table, "", f"Rescaled below {rescale:g}:", str(certificate), *changes])
    write_json(finished.run.folder / "certificate.json", content)
    return table, certificate.not_proven


def check_rescale(rescale: float | None) -> None:
    """Refuses what no block can be scaled below.

    Args:
        rescale: the number, or None.

    Raises:
        RunError: it is not in (0, 1].
    """
    if rescale is not None and not 0 < rescale <= 1:
        raise RunError(f"--rescale {rescale} cannot be used; give a number in (0, 1]")


def refuse_baseline(finished: Finished) -> None:
    """Refuses a model that has no residual blocks.

    Args:
        finished: the run.

    Raises:
        RunError: it is a baseline.
    """
    if finished.is_baseline:
        raise RunError(
            f"{finished.experiment.name} is a baseline without residual blocks, so there is no "
            "Lipschitz constant to certify or rescale; give the folder of an i-ResNet"
        )


def certified(model: Any, rescale: float | None = None) -> Certificate:
    """Certifies a model.

    Args:
        model: the model.
        rescale: as in `tf_iresnet.certify`.

    Returns:
        The certificate.

    Raises:
        RunError: a part has no known bound, or cannot be scaled.
    """
    try:
        return certify(model, rescale=rescale)
    except ValueError as error:
        raise RunError(str(error)) from error


def _cost(finished: Finished, images: int) -> dict[str, Any]:
    results = measure(finished, "validation", images)
    return {k: results[k] for k in ("bits_per_dim", "error_percent", "images") if k in results}
