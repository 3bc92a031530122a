"""The experiments by name, each a TOML file, and changes to them from the command line."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path

from training.console import warn
from training.errors import RunError
from training.experiments.config import Experiment, parse_experiment
from training.experiments.lengths import shorten_warmup, unreached_boundaries
from training.experiments.settings import AnyFlow
from training.typing import Json, RawSettings

_TABLES = ("schedule", "log_det", "eval_log_det", "model")  # of several kinds
_FOLDER = Path(__file__).parent / "files"  # with a folder for each data set and task


def experiment_names() -> list[str]:
    """Lists the experiments' names in order."""
    return sorted(path.stem for path in _FOLDER.rglob("*.toml"))


def load_experiment(
    name: str, overrides: Sequence[str] = (), *, steps: int | None = None, seed: int | None = None
) -> Experiment:
    """Reads an experiment and applies changes to it.

    Where fewer steps are asked for than the warm-up takes, the warm-up is shortened with them,
    unless the changes name it; a warning says so.

    Args:
      name: one of `experiment_names`.
      overrides: changes such as "model.hidden=32", the value in TOML's notation; quotes around
        words may be left out.
      steps: replaces the number of steps.
      seed: replaces the seed.

    Raises:
      RunError: if the experiment is unknown, or a setting cannot be used.
    """
    names = experiment_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}"
        raise RunError(f"experiment {name!r} is unknown; {hint}")
    try:
        written = parse_experiment({**_read(name), "name": name})
    except RunError as error:
        raise RunError(f"experiment {name!r}: {error}") from error
    settings = written.model_dump(mode="json")
    for override in overrides:
        _apply(settings, override)
    for key, value in (("steps", steps), ("seed", seed)):
        if value is not None:
            settings[key] = value
    chosen = [override.partition("=")[0].replace(" ", "") for override in overrides]
    remarks = shorten_warmup(settings, written, chosen)
    experiment = parse_experiment(settings)
    for remark in [*remarks, *unreached_boundaries(experiment)]:
        warn(remark)
    return experiment


def _read(name: str) -> RawSettings:
    """Reads an experiment's file over the one that it extends."""
    path = next(_FOLDER.rglob(f"{name}.toml"), _FOLDER / f"{name}.toml")
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read: {error}") from error
    base = written.pop("extends", None)
    return written if base is None else _merged(_read(base), written)


def _merged(base: RawSettings, changes: RawSettings) -> RawSettings:
    """Puts changes over a base; from a table of another kind only shared settings are kept."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            value = _merged(_shared(old, value), value)
        merged[key] = value
    return merged


def _shared(old: RawSettings, new: RawSettings) -> RawSettings:
    """Returns what of a table holds for the kind that the changes name, too."""
    if "name" in new and new["name"] != old.get("name"):
        return {}
    if "architecture" in new and new["architecture"] != old.get("architecture", "iresnet"):
        return {key: value for key, value in old.items() if key in AnyFlow.model_fields}
    return old


def _apply(settings: RawSettings, override: str) -> None:
    place, equals, text = override.partition("=")
    *parents, last = (part.strip() for part in place.split("."))
    if not equals or not last or not all(parents):
        raise RunError(f"--set {override!r} is no change; write it as model.hidden=32")
    if last in ("name", "task") and not parents:
        raise RunError(f"--set {override!r} would make it another experiment; name that instead")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise RunError(f"--set {override!r} goes into {parent!r}, which is a single value")
    value = _value(text)
    if parents and parents[-1] in _TABLES:
        kept = _shared(settings, {last: value})  # another kind has other settings
        for key in settings.keys() - kept.keys():
            del settings[key]
    settings[last] = value


def _value(text: str) -> Json:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
