"""The experiments by name, each a TOML file, and changes to them from the command line."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import Experiment, parse_experiment
from training.errors import RunError

_KINDS = ("schedule", "log_det", "eval_log_det")
_FOLDER = Path(__file__).parent / "experiments"


def experiment_names() -> list[str]:
    """Lists the experiments.

    Returns:
        Their names in order.
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_experiment(
    name: str, overrides: Sequence[str] = (), *, steps: int | None = None, seed: int | None = None
) -> Experiment:
    """Reads an experiment and applies changes to it.

    Args:
        name: one of `experiment_names`.
        overrides: changes such as "model.hidden=32", the value in TOML's notation; quotes
            around words may be left out.
        steps: replaces the number of steps.
        seed: replaces the seed.

    Returns:
        The experiment.

    Raises:
        RunError: the experiment is unknown, or a setting cannot be used.
    """
    names = experiment_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}"
        raise RunError(f"experiment {name!r} is unknown; {hint}")
    settings = parse_experiment({**_read(name), "name": name}).model_dump(mode="json")
    for override in overrides:
        _apply(settings, override)
    for key, value in (("steps", steps), ("seed", seed)):
        if value is not None:
            settings[key] = value
    return parse_experiment(settings)


def _read(name: str) -> dict[str, Any]:
    """Reads an experiment's file over the one that it extends."""
    written = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    base = written.pop("extends", None)
    return written if base is None else _merged(_read(base), written)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Puts changes over a base; tables are merged, unless they are of another kind."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and _same_kind(old, value):
            value = _merged(old, value)
        merged[key] = value
    return merged


def _same_kind(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(key not in new or new[key] == old.get(key) for key in ("name", "architecture"))


def _apply(settings: dict[str, Any], override: str) -> None:
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
    tags_kind = last == "architecture" or (last == "name" and parents[-1] in _KINDS)
    if tags_kind and settings.get(last) != _value(text):
        settings.clear()  # another kind has other settings
    settings[last] = _value(text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
