"""Checkpoints of all that training changes, numbered by step; the last few are kept."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tf_iresnet.models.training.model import Model
from training.console import warn
from training.errors import RunError
from training.experiments.agreement import differences, is_longer
from training.experiments.config import Experiment, parse_recorded
from training.runs.files import first_line, trouble

_KEPT = 3
_LIST = "checkpoint"  # TensorFlow's list of them
_DAMAGED = "damaged"  # where files go that cannot be read
_SETTINGS = "settings/.ATTRIBUTES/py_state"


class Checkpoints:
    """The checkpoints in one folder.

    TensorFlow writes each under another name first, lists it when it is complete, and compares
    every tensor with its checksum when reading. The files count, and the list may be lost. Each
    checkpoint holds the settings that its weights were trained with.

    Args:
      folder: the folder.
      experiment: the settings of the run.
      model: its compiled model; the optimizer and the metrics, all built, are saved with it.
      writes: whether this process writes; of several workers one does.
    """

    def __init__(
        self, folder: Path, experiment: Experiment, model: Model, writes: bool = True
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        self._writes = writes
        self._metrics = model.metrics_variables
        # Their sums over all replicas, since every process holds a part.
        self._sums = [tf.Variable(tf.zeros(m.shape, m.dtype)) for m in self._metrics]
        self._state = {
            # One by one: TensorFlow does not see what Keras' layers hold in lists.
            "model": {f"{i}_{weight.name}": weight.value for i, weight in enumerate(model.weights)},
            "norms": _without(model.derived_state, model.weights),
            "optimizer": [variable.value for variable in model.optimizer.variables],
            "metrics": self._sums,
            "counters": model.step_counters,
            "settings": _Written(json.dumps(experiment.model_dump(mode="json"))),
        }
        self._checkpoint = self._of(self._state.keys())
        self._manager = self._listed()
        self.step: int | None = None

    def save(self, step: int) -> None:
        """Saves the state after some steps; every worker has to call it.

        Args:
          step: the number of steps done.

        Raises:
          RunError: if the folder cannot be written to.
        """
        for total, metric in zip(self._sums, self._metrics, strict=True):
            total.assign(tf.convert_to_tensor(metric))
        if self._writes:
            try:
                self._manager.save(checkpoint_number=step)
            except (tf.errors.OpError, OSError) as error:
                for path in self._folder.glob(f"step-{step}[._]*"):
                    _remove(path)
                raise RunError(
                    f"no checkpoint can be written in {str(self._folder)!r}; {self.kept()}: "
                    f"{trouble(error)}"
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
          RunError: if none of them can be read, or they are of other settings or another model.
        """
        check_settings(self._folder, self._experiment)
        self._manager = self._listed()  # another process may have written some
        steps = _steps(self._folder)
        listed = {_step(path) for path in self._manager.checkpoints}
        if not listed and (steps or (self._folder / _LIST).exists()):
            place = str(self._folder / _LIST)
            if not steps:
                raise RunError(
                    f"{place!r}, the list of checkpoints, is damaged and none is there; restore "
                    "them, or train again in another folder"
                )
            warn(f"{place!r}, the list of checkpoints, is lost; taking the last of the files")
        problems: dict[str, str] = {}
        for step in sorted(steps | listed, reverse=True):
            path = str(self._folder / f"step-{step}")
            problem = self._read(path)
            if problem is None:
                for damaged, reason in problems.items():
                    warn(f"checkpoint {damaged!r} is damaged ({reason}); taking one before it")
                self.step = step
                return step
            problems[path] = problem
        if problems:
            path, problem = next(iter(problems.items()))
            raise RunError(
                f"checkpoint {path!r} is damaged ({problem}) and no other can be read; restore "
                "it, or train again in another folder"
            )
        return None

    def restore_metrics(self) -> None:
        """Sets the metrics to what they were when the restored state was saved."""
        for metric, total in zip(self._metrics, self._sums, strict=True):
            metric.assign(total)

    def clean(self) -> None:
        """Removes from the folder what would hinder saving after the restored step.

        Files that a killed process has left unfinished are deleted. Those of later steps cannot be
        read, and go to a folder of their own. The list then names the others.
        """
        last = -1 if self.step is None else self.step
        good = sorted(step for step in _steps(self._folder) if step <= last)
        for path in self._folder.glob("step-*"):
            if path.is_dir() or ".tempstate" in path.name:
                _remove(path)
            elif _step(path.name.split(".")[0]) not in good:
                aside = self._folder / _DAMAGED
                aside.mkdir(exist_ok=True)
                path.replace(aside / path.name)
        if sorted(map(_step, self._manager.checkpoints)) != good:
            paths = [str(self._folder / f"step-{step}") for step in good]
            tf.compat.v1.train.update_checkpoint_state(
                str(self._folder), paths[-1], all_model_checkpoint_paths=paths
            )
            self._manager = self._listed()

    def _listed(self) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=_KEPT, checkpoint_name="step"
        )

    def _of(self, names: Iterable[str]) -> tf.train.Checkpoint:
        """Makes a checkpoint of some parts of the state."""
        checkpoint = tf.train.Checkpoint(**{name: self._state[name] for name in names})
        _ = checkpoint.save_counter  # makes the counter, for it to be restored
        return checkpoint

    def _read(self, path: str) -> str | None:
        """Restores a checkpoint, or says what is wrong with its files."""
        try:
            names = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        except Exception as error:  # whatever a damaged file provokes
            return first_line(error)
        # A checkpoint need not hold every part, but always these two.
        there = {name.split("/")[0] for name in names}
        parts = [name for name in self._state if name in there | {"model", "optimizer"}]
        try:
            self._of(parts).restore(path).assert_consumed()
        except (ValueError, AssertionError) as error:  # other shapes, or other variables
            raise RunError(
                f"checkpoint {path!r} is of another model than config.json describes "
                f"({first_line(error)}); restore config.json, or train again in another folder"
            ) from error
        except Exception as error:
            return first_line(error)
        return None


def _without(
    variables: Sequence[keras.Variable], weights: Sequence[keras.Variable]
) -> list[keras.Variable]:
    known = {id(weight) for weight in weights}
    return [variable for variable in variables if id(variable) not in known]


class _Written(tf.train.experimental.PythonState):
    """A text that is saved with the state; `check_settings` reads it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def serialize(self) -> str:
        return self._text

    def deserialize(self, string_value: str) -> None:
        """Keeps the text: the next checkpoint is of this process' settings."""


def check_settings(folder: Path, experiment: Experiment) -> None:
    """Refuses checkpoints whose weights were trained with other settings.

    A checkpoint that is damaged, or holds no settings, is passed over.

    Args:
      folder: the folder of the checkpoints.
      experiment: what the run's `config.json` says.

    Raises:
      RunError: if they are of other settings; the message names one that differs.
    """
    for step in sorted(_steps(folder), reverse=True):
        path = folder / f"step-{step}"
        text = _settings(path)
        if text is None:
            continue
        try:
            trained = parse_recorded(json.loads(text))
        except (RunError, ValueError) as error:
            raise RunError(
                f"the settings in checkpoint {str(path)!r} cannot be used: {error}; use the "
                "version of this package that wrote it, or train again in another folder"
            ) from error
        found = differences(trained, experiment)
        if found and not (is_longer(found) and trained.can_be_extended):
            key, first, second = found[0]
            more = f" and {len(found) - 1} more differ" if len(found) > 1 else ""
            raise RunError(
                f"{str(folder.parent / 'config.json')!r} says {key}={second}, but the weights in "
                f"checkpoint {path.name!r} were trained with {key}={first}{more}; restore the "
                "file, or train with these settings in another folder"
            )


def _settings(path: Path) -> str | None:
    try:
        text = tf.train.load_checkpoint(str(path)).get_tensor(_SETTINGS)
    except Exception:  # whatever a damaged file provokes, or one without settings
        return None
    return text.decode()


def _steps(folder: Path) -> set[int]:
    """Returns the steps of the checkpoints whose files are there."""
    return {_step(path.stem) for path in folder.glob("step-*.index")} - {-1}


def _step(path: str) -> int:
    number = path.rpartition("step-")[2]
    return int(number) if number.isdecimal() else -1


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
