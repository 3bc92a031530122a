"""How well a model's inverse finds the images it was given."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from training.errors import RunError
from training.measures import pictures
from training.measures.finished import Finished
from training.measures.inputs import inputs_with_index
from training.runs.files import new_file
from training.typing import PathLike, Results

_SHOWN = 16
_CHECKED = 1_000


class RoundTrips(NamedTuple):
    """Test images, encoded and decoded again.

    Args:
      images: the first ones, with values as shares of the pixels' range.
      reconstructions: of these; of images whose inverse was not found, the last iterate.
      errors: the largest error of a pixel of each image, the ones not shown included.
      steps: that the solver took for each.
      converged: whether each one's inverse was found.
    """

    images: np.ndarray
    reconstructions: np.ndarray
    errors: np.ndarray
    steps: np.ndarray
    converged: np.ndarray


def round_trips(finished: Finished, count: int) -> RoundTrips:
    """Encodes and decodes test images.

    Args:
      finished: the run.
      count: how many, from the first on.

    Raises:
      RunError: if the model has no inverse, or the data are no images.
    """
    finished.check_invertible()
    spec = finished.dataset.spec
    if not spec.is_image:
        raise RunError(f"{spec.name!r} holds no images to show; use `python -m training sample`")
    model, span = finished.model, finished.span
    round_trip = tf.function(
        lambda x, *context: model.decode(model.encode(x, *context), True, *context),
        input_signature=finished.input_specs,
        autograph=False,
    )
    errors, steps, converged = [], [], []
    shown: list[np.ndarray] = []
    for _, (x, *context) in inputs_with_index(finished, "test", count):
        result = round_trip(x, *context)
        x, back = x.numpy() / span, result.x.numpy().astype(np.float64) / span
        errors.append(np.abs(back - x).max(axis=(1, 2, 3)))
        steps.append(result.steps.numpy())
        converged.append(result.converged.numpy())
        if not shown:
            shown = [x[:_SHOWN], back[:_SHOWN]]
    return RoundTrips(*shown, *map(np.concatenate, (errors, steps, converged)))


def write_reconstructions(finished: Finished, out: PathLike) -> Results:
    """Encodes and decodes up to 1,000 test images, draws the first and notes the errors.

    Errors are shares of the pixels' range. Images whose inverse was not found are counted, and
    framed red in the picture: their row of reconstructions is the solver's last iterate.

    Args:
      finished: the run.
      out: the picture's file: originals over reconstructions over absolute differences.

    Returns:
      What was added to `metrics.json` as "reconstruction".

    Raises:
      RunError: if the model has no inverse, the file cannot be written, or the data are no images.
    """
    path = new_file(out)
    trips = round_trips(finished, min(_CHECKED, finished.dataset.spec.split_sizes["test"]))
    report = _report(trips.errors, trips.steps, trips.converged)
    difference = np.abs(trips.reconstructions - trips.images)
    rows = [trips.images, trips.reconstructions, np.where(difference >= 0, difference, 1.0)]
    picture = pictures.image_rows(rows, ~trips.converged[:_SHOWN])
    finished.add_metrics(
        {"reconstruction": report}, {path: lambda file: pictures.write_image(file, picture)}
    )
    return report


def _report(errors: np.ndarray, steps: np.ndarray, converged: np.ndarray) -> Results:
    finite = np.isfinite(errors)
    return {
        "images": len(errors),
        "largest_error": float(errors.max()) if finite.all() else None,
        "mean_error": float(errors.mean()) if finite.all() else None,
        "all_converged": bool(converged.all()),
        "not_converged": int((~converged).sum()),
        "not_finite": int((~finite).sum()),
        "largest_error_of_converged": float(errors[converged].max()) if converged.any() else None,
        "steps": {
            "least": int(steps.min()),
            "mean": float(steps.mean()),
            "most": int(steps.max()),
        },
    }
