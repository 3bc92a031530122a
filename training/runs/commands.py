"""The commands that repeat what was done, without the folders of this machine."""

import os
import shlex

from training.typing import PathLike


def command(*words: str) -> str:
    """Writes down a command of this package, as a shell reads it."""
    return shlex.join(["python", "-m", "training", *words])


def portable(folder: PathLike) -> str:
    """Names a run's folder as it is called in `runs/`, wherever it is."""
    return f"runs/{os.path.basename(os.path.abspath(folder))}"
