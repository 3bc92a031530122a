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
    """Lists the settings in which two experiments differ, as far as they change what is computed.

    A setting that one of them lacks has the value None there.
    """
    old, new = (_flat(settings.model_dump(mode="json")) for settings in (first, second))
    return [
        Difference(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in _FREE
    ]


def is_longer(found: list[Difference]) -> bool:
    """Whether the second experiment is the first one with more steps and nothing else."""
    return [item.setting for item in found] == ["steps"] and found[0].second > found[0].first


def _flat(settings: RawSettings, prefix: str = "") -> RawSettings:
    flat: RawSettings = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
