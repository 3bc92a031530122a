"""The reader of finished runs' results, from which tables and the page are made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import RunError
from training.runs.commands import command
from training.runs.contents import FINISHED, HISTORY, read_content
from training.runs.files import read_json
from training.typing import HistoryEntry, JsonObject, PathLike, RawSettings, Results

_MEASURES = ("error_percent", "bits_per_dim")
_SEEDS, HALF = "table2", "half"  # folders of runs that vary an experiment


@dataclass(frozen=True)
class Record:
    """The results of a finished run.

    Args:
      folder: where its files are.
      metrics: of `metrics.json`.
      settings: the experiment's, of `config.json`.
      certificate: of `certificate.json`; None where there is none.
    """

    folder: Path
    metrics: Results
    settings: RawSettings
    certificate: JsonObject | None

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.metrics["experiment"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.metrics["seed"]

    @property
    def architecture(self) -> str | None:
        """What the model is made of; None where the settings do not say."""
        return (self.settings.get("model") or {}).get("architecture")

    @property
    def measured(self) -> bool:
        """Whether the run was evaluated on test examples."""
        return self.metrics.get("split") == "test" and any(key in self.metrics for key in _MEASURES)

    def history(self) -> list[HistoryEntry]:
        """Reads what was noted during training; nothing where that was not kept."""
        path = self.folder / "history.json"
        return read_content(path, HISTORY) if path.exists() else []

    def number(self, key: str) -> float:
        """Returns a number of `metrics.json` by its name.

        Raises:
          RunError: if it is not there, or no number.
        """
        value = self.metrics.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(
                f"{str(self.folder / 'metrics.json')!r} is damaged: {key!r} is {value!r}; run "
                "`evaluate` again"
            )
        return value

    def by_views(self) -> "Record | None":
        """Returns this record with the error rate of several views of each image.

        It is None where `evaluate --views` was not run on the same examples.
        """
        found = self.metrics.get("views")
        if found is None:
            return None
        if any(found.get(key) != self.metrics.get(key) for key in ("split", "images")):
            return None
        measured = {key: found[key] for key in ("count", "error_percent")}
        return replace(self, metrics={**self.metrics, **measured})


class Records:
    """The results in a folder, by the experiments' names.

    A run worth keeping is `EXPERIMENT/`. Runs that differ in their seed alone, of which means over
    seeds are taken, are `table2/EXPERIMENT_seedK/`; with half the parameters it is
    `half/EXPERIMENT/`.

    Args:
      folder: the folder.

    Raises:
      RunError: if there is no such folder.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise RunError(f"--results {str(folder)!r} is no folder; give one of finished runs")

    def find(self, experiment: str, group: str = "") -> Record | None:
        """Reads an experiment's run; where only runs with several seeds were kept, that of seed 0.

        Args:
          experiment: its name.
          group: `HALF` for its version of half the size.

        Returns:
          The run's results; None if it was not run, or not evaluated on the test set.

        Raises:
          RunError: if its files are damaged, or of another experiment.
        """
        folder = self.folder / group / experiment
        if not _holds_run(folder):
            return None if group else self.seeds(experiment).get(0)
        record = read_record(folder)
        if record.experiment != experiment:
            raise RunError(
                f"{str(folder)!r} holds results of {record.experiment!r}; name the folder after it"
            )
        return record if record.measured else None

    def seeds(self, experiment: str) -> dict[int, Record]:
        """Reads an experiment's runs with several seeds.

        Args:
          experiment: its name.

        Returns:
          Those evaluated on the test set, by seed and in order.

        Raises:
          RunError: if a folder's files are damaged, or of another experiment or seed.
        """
        found: dict[int, Record] = {}
        for folder in sorted((self.folder / _SEEDS).glob(f"{experiment}_seed*")):
            match = re.fullmatch(r"_seed(\d+)", folder.name.removeprefix(experiment))
            if match is None or not _holds_run(folder):
                continue
            record, seed = read_record(folder), int(match[1])
            if (record.experiment, record.seed) != (experiment, seed):
                raise RunError(
                    f"{str(folder)!r} holds results of {record.experiment!r} with seed "
                    f"{record.seed}; name the folder after them"
                )
            if record.measured:
                found[seed] = record
        return dict(sorted(found.items()))

    def all(self) -> list[Record]:
        """Reads every run, in the order of the folders' names, variants last.

        Raises:
          RunError: if files are damaged.
        """
        places = (self.folder, self.folder / HALF, self.folder / _SEEDS)
        folders = [folder for place in places for folder in sorted(place.glob("*"))]
        return [read_record(folder) for folder in folders if _holds_run(folder)]


def read_record(folder: Path) -> Record:
    """Reads a run's results.

    Raises:
      RunError: if a file is missing or damaged; the message names it.
    """
    path = folder / "metrics.json"
    metrics = read_content(path, FINISHED)
    config = _mapping(folder / "config.json")
    if config.get("experiment") != metrics["experiment"]:
        raise RunError(
            f"{str(path)!r} is of {metrics['experiment']!r}, but config.json beside it of "
            f"{config.get('experiment')!r}; restore them"
        )
    certificate = folder / "certificate.json"
    return Record(
        folder=folder,
        metrics=metrics,
        settings=config.get("settings") or {},
        certificate=_mapping(certificate) if certificate.exists() else None,
    )


def commands_for_missing(found: Mapping[str, object], seed: int | None = None) -> list[str]:
    """Returns the commands that make the runs that are missing.

    Args:
      found: what is there of each experiment; nothing, or None, where its run is missing.
      seed: of the runs, where it is one of several.
    """
    return [line for name, runs in found.items() if not runs for line in _commands(name, seed)]


def _commands(experiment: str, seed: int | None) -> list[str]:
    """Returns the commands that train a run and evaluate it."""
    run = f"runs/{experiment}" if seed is None else f"runs/{experiment}_seed{seed}"
    given = [] if seed is None else ["--seed", str(seed)]
    return [command("train", experiment, "--out", run, *given), command("evaluate", run)]


def _holds_run(folder: Path) -> bool:
    """Whether a run's files are there, all or some of them."""
    return any((folder / name).exists() for name in ("metrics.json", "config.json"))


def _mapping(path: Path) -> JsonObject:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunError(f"{str(path)!r} is damaged: it holds no mapping; restore it")
    return content
