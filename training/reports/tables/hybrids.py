"""Density and classes by one network, beside two networks that learn one of them each."""

from training.reports.tables.cells import DATASETS, bits, costs, inverse
from training.reports.tables.intervals import error_rate
from training.reports.tables.records import Record, Records, commands_for_missing
from training.reports.tables.table import NOT_RUN, Grid, Table

_ROWS = (
    ("density alone", "{}_flow_separate"),
    ("both, cross-entropy weighted by 0.01", "{}_hybrid_w001"),
    ("both, cross-entropy weighted by 0.1", "{}_hybrid_w01"),
    ("both, cross-entropy weighted by 1", "{}_hybrid_w1"),
    ("classes alone", "{}_classifier_separate"),
)
_HEADER = (
    "model",
    "bits/dim",
    "error, %",
    "inverse",
    "parameters",
    "CPU-seconds",
    "steps",
    "seed",
    "experiment",
)
_NOTES = (
    "All five have the same residual blocks and the same steps on the same batches; a hybrid's two "
    "numbers are of one saved model. Bits/dim with the standard error over test images, errors "
    "with Wilson's 95 % interval over them.",
)


def make_table(records: Records) -> Table:
    """Makes a table of both data sets' networks.

    Raises:
      RunError: if results are damaged.
    """
    names = [form.format(data) for data in DATASETS for _, form in _ROWS]
    found = {name: records.find(name) for name in names}
    grids = []
    for data, title in DATASETS.items():
        rows = [
            [label, *_row(found[form.format(data)]), form.format(data)] for label, form in _ROWS
        ]
        grids.append(Grid(_HEADER, rows, title=title))
    return Table("Density and classes at once", grids, _NOTES, commands_for_missing(found))


def _row(record: Record | None) -> list[str]:
    if record is None:
        return [NOT_RUN, NOT_RUN, *[""] * 5]
    return [
        bits(record) if "bits_per_dim" in record.metrics else "–",
        str(error_rate(record)) if "error_percent" in record.metrics else "–",
        inverse([record]),
        *costs(record),
        str(record.seed),
    ]
