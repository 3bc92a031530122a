"""The settings that were tried on validation images before the experiments were run."""

import itertools
import math
import shlex

from training.errors import RunError
from training.reports.tables.records import Records
from training.reports.tables.table import Grid, Table
from training.runs.files import read_json
from training.typing import JsonObject

FILE = "trials.json"
_HEADER = (
    "experiment",
    "optimizer, rate",
    "settings",
    "on validation images",
    "CPU-seconds",
    "processor",
)
_NOTES = (
    "Each experiment's trials in the order of their results, of one seed; a flow's are bits/dim of "
    "500 images, a classifier's the error in percent on 5,000. They are short runs by `python -m "
    "training train EXPERIMENT --out DIR` with these settings, often of a smaller version of the "
    "model, and with the optimizer and rate beside them: the experiments hold those chosen since. "
    "“Not finite” is a training that was given up because its loss was no number. Where the best "
    "rate of a baseline's short runs was not the experiment's, both were tried in runs of full "
    "length, which decided: rates that win over 300 steps lose over 1,200. Those of "
    "`mnist_flow` and `cifar10_classifier_best` are attempts at the best runs, in full, as are "
    "those of `mnist_classifier_resnet` and, of two rates, `cifar10_classifier_resnet`.",
)


def make_table(records: Records) -> Table:
    """Makes the table of all trials in `trials.json`.

    Raises:
      RunError: if the file is damaged.
    """
    path = records.folder / FILE
    trials = read_json(path) if path.exists() else []
    try:
        ordered = sorted(trials, key=lambda trial: (_words(trial)[0], _value(trial)))
        rows = [_row(trial) for trial in ordered]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{str(path)!r} is damaged: {error!r}; restore it") from error
    return Table("Trials", [Grid(_HEADER, rows)], _NOTES)


def _row(trial: JsonObject) -> list[str]:
    experiment, *settings = _words(trial)
    unit, digits = ("bits/dim", 3) if "val_bits_per_dim" in trial else ("%", 2)
    value = _value(trial)
    return [
        experiment,
        str(trial["optimizer"]),
        " ".join(f"`{setting}`" for setting in settings),
        f"{value:.{digits}f} {unit}" if math.isfinite(value) else "not finite",
        f"{trial['cpu_seconds']:,.0f}",
        str(trial["processor"]),
    ]


def _value(trial: JsonObject) -> float:
    """Returns what a trial was judged by, the less the better; infinity for a loss of NaN."""
    if "val_bits_per_dim" in trial:
        bits = trial["val_bits_per_dim"]
        return math.inf if bits is None else float(bits)
    return 100 * (1 - float(trial["val_accuracy"]))


def _words(trial: JsonObject) -> list[str]:
    """Returns the experiment's name and the settings that its command changes."""
    _, _, _, verb, experiment, *rest = shlex.split(trial["command"])
    if verb != "train":
        raise ValueError(trial["command"])
    changed = [f"steps={trial['steps']}"]
    pairs = itertools.pairwise(rest)
    return [experiment, *changed, *(value for flag, value in pairs if flag == "--set")]
