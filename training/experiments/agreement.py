"""Whether two experiments are the same run: in which settings they differ."""

from typing import NamedTuple

from training.experiments.config import Experiment
from training.typing import Json, RawSettings

_FREE = ("description",)  # does not change what a run computes


class Difference(NamedTuple):
    """A setting, its value in the first experiment and that in the second."""

    setting: str
    first: Json
    second: Json


def differences(first: Experiment, second: Experiment) -> list[Difference]:
    """Finds the settings in which two experiments differ.

    Args:
      first: an experiment.
      second: another one.

    Returns:
      The settings that change what is computed, in order; None stands for one that is not there.
    """
    old, new = (_flat(settings.model_dump(mode="json")) for settings in (first, second))
    return [
        Difference(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in _FREE
    ]


def is_longer(found: list[Difference]) -> bool:
    """Says whether the second experiment is the first one with more steps, and nothing else.

    Args:
      found: their differences.

    Returns:
      Whether it is.
    """
    return [item.setting for item in found] == ["steps"] and found[0].second > found[0].first


def _flat(settings: RawSettings, prefix: str = "") -> RawSettings:
    flat: RawSettings = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
