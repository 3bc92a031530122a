"""The folder of a run: which experiment it holds, how far it is, and what came out."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.errors import RunError
from training.experiments.agreement import differences, is_longer
from training.experiments.config import Experiment, parse_recorded
from training.runs.contents import HISTORY, METRICS, read_content
from training.runs.files import Writer, as_json, read_json, trouble, write_files, write_json
from training.typing import HistoryEntry, JsonObject, PathLike, Results


class Run:
    """A run's folder.

    Args:
      folder: the folder; it need not exist.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self._config = self.folder / "config.json"
        self._metrics = self.folder / "metrics.json"
        self._history = self.folder / "history.json"
        self.checkpoints = self.folder / "checkpoints"
        self.tensorboard = self.folder / "tensorboard"

    @property
    def is_there(self) -> bool:
        """Whether the folder holds a run."""
        return self._config.exists()

    def check(self, experiment: Experiment) -> bool:
        """Refuses a folder in which the experiment cannot be started or continued.

        Args:
          experiment: the experiment that is asked for.

        Returns:
          Whether the folder holds it already.

        Raises:
          RunError: if it holds something else, or cannot be written to.
        """
        place = str(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{place!r} is a file; give a folder as --out")
        if self.is_there:
            self._compare(experiment, self.experiment())
        elif self.checkpoints.is_dir():
            raise RunError(self._without_config())
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise RunError(f"{place!r} holds other files and no run; give another folder as --out")
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise RunError(_unwritable(place, error)) from error
        return self.is_there

    def check_untrained(self) -> None:
        """Refuses to start anew where there are results without checkpoints.

        One interval may be noted: of a run that was killed before its first checkpoint.

        Raises:
          RunError: if the folder holds results, which training would replace.
        """
        if len(self.history()) > 1 or self.metrics():
            raise RunError(
                f"{str(self.folder)!r} holds results, but none of the checkpoints they came from; "
                "restore those, or train in another folder"
            )

    def begin(self, experiment: Experiment, command: str) -> None:
        """Notes what the folder holds.

        Args:
          experiment: the experiment.
          command: the command that repeats it.
        """
        settings = experiment.model_dump(mode="json")
        content = {"experiment": experiment.name, "command": command, "settings": settings}
        write_json(self._config, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps others from training in it.

        Raises:
          RunError: if another process trains there, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(_unwritable(str(self.folder), error)) from error
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"another process trains in {str(self.folder)!r}; wait for it, or give "
                    "another folder as --out"
                ) from error
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(handle)

    def experiment(self) -> Experiment:
        """Reads which experiment the folder holds.

        Raises:
          RunError: if the folder holds no run, or one of another version of this package.
        """
        try:
            return parse_recorded(self._content()["settings"])
        except (RunError, KeyError, TypeError) as error:
            if not self.is_there:
                raise
            raise RunError(f"{str(self._config)!r} cannot be used: {error}") from error

    def check_notes(self) -> None:
        """Refuses files to which nothing can be added.

        Raises:
          RunError: if `metrics.json` or `history.json` is damaged, or of another experiment.
        """
        self.history()
        noted, held = self.metrics().get("experiment"), self.experiment().name
        if noted not in (None, held):
            raise RunError(
                f"{str(self._metrics)!r} is of {noted!r}, but config.json beside it of {held!r}; "
                "restore them"
            )

    def command(self) -> str:
        """Reads the command that repeats the run."""
        return str(self._content().get("command", ""))

    def metrics(self) -> Results:
        """Reads the results; there may be none.

        Raises:
          RunError: if the file is damaged.
        """
        return read_content(self._metrics, METRICS) if self._metrics.exists() else {}

    def write_metrics(self, metrics: Results, files: Mapping[Path, Writer] | None = None) -> None:
        """Replaces the results.

        Args:
          metrics: all results.
          files: what goes with them: all of it is written, or nothing.

        Raises:
          RunError: if something cannot be written.
        """
        write_files({**(files or {}), self._metrics: as_json(metrics)})

    def history(self) -> list[HistoryEntry]:
        """Reads what was noted at each checkpoint, in order.

        Raises:
          RunError: if the file is damaged.
        """
        return read_content(self._history, HISTORY) if self._history.exists() else []

    def write_history(self, records: list[HistoryEntry]) -> None:
        """Replaces what was noted at each checkpoint.

        Args:
          records: an entry for each checkpoint, in order.
        """
        write_json(self._history, records)

    def _content(self) -> JsonObject:
        if not self.is_there:
            if self.checkpoints.is_dir():
                raise RunError(self._without_config())
            raise RunError(
                f"{str(self.folder)!r} is no run's folder: it has no config.json; make one with "
                f"`python -m training train EXPERIMENT --out {self.folder}`"
            )
        return read_json(self._config)

    def _without_config(self) -> str:
        return (
            f"{str(self.folder)!r} holds checkpoints but no config.json, which says what they are "
            "of; restore it, or give another folder"
        )

    def _compare(self, asked: Experiment, held: Experiment) -> None:
        place = str(self.folder)
        if asked.name != held.name:
            raise RunError(
                f"{place!r} holds the experiment {held.name!r}, not {asked.name!r}; give another "
                "folder as --out"
            )
        found = differences(held, asked)
        if is_longer(found):
            if held.can_be_extended:
                return
            raise RunError(
                f"{place!r} holds a run of {held.steps} steps, at which its learning rate ends; "
                "give that number, or another folder as --out"
            )
        if found:
            key, old, new = found[0]
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise RunError(
                f"{place!r} holds a run with {key}={old} where {new} is asked for{more}; give "
                "the settings it was started with, or another folder as --out"
            )


def _unwritable(place: str, error: OSError) -> str:
    return f"{place!r} cannot be written to: {trouble(error)}"
