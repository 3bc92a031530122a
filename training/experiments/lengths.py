"""Lengths in steps that have to change, or come to nothing, where a run is made shorter."""

from collections.abc import Collection

from training.experiments.config import Cosine, Experiment, Piecewise
from training.typing import RawSettings


def shorten_warmup(
    settings: RawSettings, written: Experiment, chosen: Collection[str]
) -> list[str]:
    """Shortens a warm-up that would take all of the steps to its share of the written steps.

    Args:
      settings: the changed settings, in which the warm-up is replaced.
      written: the experiment as it is written down.
      chosen: the settings that were changed by name; these stay.

    Returns:
      What to tell the user.
    """
    steps, schedule = settings["steps"], settings["schedule"]
    if not isinstance(written.schedule, Cosine) or not isinstance(steps, int):
        return []
    before = written.schedule.warmup_steps
    stays = "schedule.warmup_steps" in chosen or schedule.get("warmup_steps") != before
    if stays or not 0 < steps <= before:
        return []
    schedule["warmup_steps"] = before * steps // written.steps
    return [
        f"schedule.warmup_steps is {schedule['warmup_steps']}, since {before} would leave nothing "
        f"of steps={steps}"
    ]


def unreached_boundaries(experiment: Experiment) -> list[str]:
    """Tells the user which boundaries lie beyond the last step."""
    if not isinstance(experiment.schedule, Piecewise):
        return []
    boundaries, steps = experiment.schedule.boundaries, experiment.steps
    late = [step for step in boundaries if step >= steps]
    if not late:
        return []
    drops = len(boundaries) - len(late)
    return [
        f"schedule.boundaries={list(boundaries)} reach beyond steps={steps}: the learning rate "
        f"drops {drops} of {len(boundaries)} times"
    ]
