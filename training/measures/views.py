"""Error rates of several views of each image."""

from training.data import views
from training.errors import RunError
from training.measures.finished import Finished
from training.measures.inputs import batches_with_index
from training.measures.measuring import find_mistakes
from training.typing import Results


def check_views(finished: Finished) -> None:
    """Refuses a run whose images have no views.

    Args:
      finished: the run.

    Raises:
      RunError: if it has a density, or was trained on images as they are.
    """
    experiment = finished.experiment
    if finished.is_flow or not {"crop", "flip"} & set(experiment.augment):
        raise RunError(
            f"--views is for classifiers that were trained on shifted or mirrored images; "
            f"{experiment.name} has task={experiment.task!r} and augment={experiment.augment}: "
            "leave it out"
        )


def measure_by_views(finished: Finished, split: str, limit: int | None) -> Results:
    """Measures the error rate of the mean of the logits of several views of each image.

    Args:
      finished: the run of a classifier.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.

    Returns:
      The error rate, how many views there are, and of what it was measured.
    """
    augment = finished.experiment.augment
    _, (x, _) = next(batches_with_index(finished, split, 1))
    mistakes = find_mistakes(finished, split, limit, augment)
    return {
        "count": len(views(x, augment)),
        "split": split,
        "images": len(mistakes),
        "error_percent": 100 * float(mistakes.mean()),
    }
