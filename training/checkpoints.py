"""Checkpoints of all that training changes, numbered by step, the last few of which are kept."""

import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_iresnet.models.trained import TrainedModel
from training.console import warn
from training.errors import RunError

_KEPT = 3


class Checkpoints:
    """The checkpoints in one folder.

    TensorFlow writes each under another name first, lists it only when it is complete, and
    compares every tensor with its checksum when reading.

    Args:
        folder: the folder.
        model: the compiled model; its optimizer and its metrics, already built, are saved with it.
        writes: whether this process writes; of several workers one does.
    """

    def __init__(self, folder: Path, model: TrainedModel, writes: bool = True):
        self._folder = folder
        self._writes = writes
        self._metrics = model.metrics_variables
        # Their sums over all replicas, since every process holds a part.
        self._sums = [tf.Variable(tf.zeros(m.shape, m.dtype)) for m in self._metrics]
        state = {
            # One by one: TensorFlow does not see what Keras' layers hold in lists.
            "model": {f"{i}_{weight.name}": weight.value for i, weight in enumerate(model.weights)},
            "optimizer": [variable.value for variable in model.optimizer.variables],
        }
        progress = {"metrics": self._sums, "counters": model.step_counters}
        self._without_progress = tf.train.Checkpoint(**state)  # as earlier versions wrote them
        self._checkpoint = tf.train.Checkpoint(**state, **progress)
        for checkpoint in (self._checkpoint, self._without_progress):
            _ = checkpoint.save_counter  # makes it, so that it is restored, too
        self._manager = self._listed()
        self.step: int | None = None

    def save(self, step: int) -> None:
        """Saves the state after `step` steps; every worker has to call it.

        Args:
            step: the number of steps done.

        Raises:
            RunError: the folder cannot be written to.
        """
        for total, metric in zip(self._sums, self._metrics, strict=True):
            total.assign(tf.convert_to_tensor(metric))
        if self._writes:
            try:
                self._manager.save(checkpoint_number=step)
            except (tf.errors.OpError, OSError) as error:
                raise RunError(
                    f"no checkpoint can be written in {str(self._folder)!r} "
                    f"({_first_line(error)}); {self.kept()}: free the disk, then give the same "
                    "command again"
                ) from error
        self.step = step

    def kept(self) -> str:
        """Says which state is safe."""
        return "nothing was saved yet" if self.step is None else f"step {self.step} is kept"

    def restore(self) -> int | None:
        """Restores the last checkpoint, or the one before where that is damaged.

        Returns:
            Its step, or None if there are no checkpoints.

        Raises:
            RunError: none of them can be read, or their list cannot.
        """
        self._manager = self._listed()  # another process may have written some
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

    def restore_metrics(self) -> None:
        """Sets the metrics to what they were when the restored state was saved."""
        for metric, total in zip(self._metrics, self._sums, strict=True):
            metric.assign(total)

    def clean(self) -> None:
        """Removes what a process that was killed while saving has left."""
        listed = {Path(path).name for path in self._manager.checkpoints}
        for path in self._folder.glob("step-*"):
            if path.name.split(".")[0] not in listed:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _listed(self) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=_KEPT, checkpoint_name="step"
        )

    def _read(self, path: str) -> str | None:
        try:
            names = tf.train.load_checkpoint(path).get_variable_to_shape_map()
            whole = any(name.startswith("counters/") for name in names)
            checkpoint = self._checkpoint if whole else self._without_progress
            checkpoint.restore(path).assert_consumed()
        except Exception as error:  # whatever a damaged file provokes
            return _first_line(error)
        return None


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
