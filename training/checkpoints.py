"""Checkpoints of model and optimizer, numbered by step, the last few of which are kept."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from training.console import warn
from training.errors import RunError

_KEPT = 3


class Checkpoints:
    """The checkpoints in one folder.

    TensorFlow writes each under another name first, lists it only when it is complete, and
    compares every tensor with its checksum when reading.

    Args:
        folder: the folder.
        model: the compiled model; its optimizer, already built, is saved with it.
    """

    def __init__(self, folder: Path, model: keras.Model):
        self._folder = folder
        self._checkpoint = tf.train.Checkpoint(
            # One by one: TensorFlow does not see what Keras' layers hold in lists.
            model={f"{i}_{weight.name}": weight.value for i, weight in enumerate(model.weights)},
            optimizer=[variable.value for variable in model.optimizer.variables],
        )
        _ = self._checkpoint.save_counter  # makes it, so that it is restored, too
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=_KEPT, checkpoint_name="step"
        )
        self.step: int | None = None

    def save(self, step: int) -> None:
        """Saves the state after `step` steps.

        Args:
            step: the number of steps done.

        Raises:
            RunError: the folder cannot be written to.
        """
        try:
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise RunError(
                f"no checkpoint can be written in {str(self._folder)!r} ({_first_line(error)}); "
                "free the disk, then give the same command again"
            ) from error
        self.step = step

    def restore(self) -> int | None:
        """Restores the last checkpoint, or the one before where that is damaged.

        Returns:
            Its step, or None if there are no checkpoints.

        Raises:
            RunError: none of them can be read, or their list cannot.
        """
        paths = list(reversed(self._manager.checkpoints))
        if not paths and (self._folder / "checkpoint").exists():
            raise RunError(
                f"{str(self._folder / 'checkpoint')!r}, the list of checkpoints, is damaged; "
                "restore it, or train again in another folder"
            )
        problems: dict[str, str] = {}
        for path in paths:
            problem = self._read(path)
            if problem is None:
                for damaged, reason in problems.items():
                    warn(f"checkpoint {damaged!r} is damaged ({reason}); taking one before it")
                self.step = int(path.rpartition("-")[2])
                return self.step
            problems[path] = problem
        if paths:
            raise RunError(
                f"checkpoint {paths[0]!r} is damaged ({problems[paths[0]]}) and no other can be "
                "read; restore it, or train again in another folder"
            )
        return None

    def _read(self, path: str) -> str | None:
        try:
            self._checkpoint.restore(path).assert_consumed()
        except Exception as error:  # whatever a damaged file provokes
            return _first_line(error)
        return None


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
