"""Two runs compared on the same examples."""

import zipfile

import numpy as np

from training.errors import RunError
from training.measures.finished import Finished
from training.runs.run import Run
from training.typing import Results

PER_EXAMPLE = "per_image.npz"  # the file of the single values


def read_values(run: Run, finished: Finished, split: str) -> np.ndarray:
    """Reads the values of single examples that another run's evaluation has left.

    Args:
      run: the other run.
      finished: the run that it is compared with.
      split: "train", "validation" or "test".

    Returns:
      The values, [examples].

    Raises:
      RunError: if it left none, or is of another task, data set or seed.
    """
    ours, theirs = finished.experiment, run.experiment()
    for key in ("task", "dataset", "seed"):
        if getattr(ours, key) != getattr(theirs, key):
            raise RunError(
                f"{str(run.folder)!r} cannot be compared: its {key} is {getattr(theirs, key)!r}, "
                f"here it is {getattr(ours, key)!r}"
            )
    try:
        with np.load(run.folder / PER_EXAMPLE) as held:
            if str(held["split"]) == split:
                return held["values"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # none, or a damaged one
        pass
    raise RunError(
        f"{str(run.folder)!r} holds no values of single examples of split {split!r}; run "
        "`python -m training evaluate` on it first"
    )


def compare(run: Run, ours: np.ndarray, theirs: np.ndarray) -> Results:
    """Compares two runs example by example.

    Args:
      run: the other run.
      ours: the values of this one, [examples].
      theirs: those of the other, [examples].

    Returns:
      The mean difference, of this run minus the other, with its standard error.

    Raises:
      RunError: if they are of different examples, or of fewer than two.
    """
    if len(ours) < 2 or len(ours) != len(theirs):
        raise RunError(
            f"{str(run.folder)!r} was evaluated on {len(theirs)} examples, this run on "
            f"{len(ours)}; evaluate both with the same --limit, of at least 2"
        )
    difference = ours - theirs
    return {
        "experiment": run.experiment().name,
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "images": len(difference),
    }
