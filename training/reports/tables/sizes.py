"""Flows beside versions of themselves with half the parameters: does each use all of them?"""

import math

from training.reports.tables.cells import DATASETS, bits
from training.reports.tables.densities import ROWS
from training.reports.tables.records import HALF, Records
from training.reports.tables.table import NOT_RUN, Grid, Table

_HEADER = (
    "model",
    "bits/dim",
    "parameters",
    "bits/dim of half",
    "parameters of half",
    "gain",
    "experiment",
)
_NOTES = (
    "Bits/dim on test images after the same steps, and by how much the full size is better, with "
    "the standard error of a difference of two independent means: that of the same images is "
    "smaller. Half-size versions have fewer blocks or narrower networks; their commands are among "
    "all runs below.",
)


def make_table(records: Records) -> Table:
    """Makes a table of the flows of each data set in both sizes.

    Raises:
      RunError: if results are damaged.
    """
    grids = []
    for data, title in DATASETS.items():
        rows = [
            [label, *_row(records, f"{data}_flow{ending}"), f"{data}_flow{ending}"]
            for label, ending, *_ in ROWS
            if ending
        ]
        grids.append(Grid(_HEADER, rows, title=title))
    return Table("Flows and their half-size versions", grids, _NOTES)


def _row(records: Records, experiment: str) -> list[str]:
    cells, found = [], []
    for group in ("", HALF):
        record = records.find(experiment, group)
        if record is None:
            cells += [NOT_RUN, ""]
            continue
        cells += [bits(record), f"{record.number('parameters'):,.0f}"]
        found.append((record.number("bits_per_dim"), record.number("standard_error")))
    if len(found) < 2:
        return [*cells, ""]
    (whole, error), (half, half_error) = found
    return [*cells, f"{half - whole:.3f} ± {math.hypot(error, half_error):.3f}"]
