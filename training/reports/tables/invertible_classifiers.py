"""Table 3: invertible classifiers of CIFAR-10."""

from training.reports.tables.cells import REMEMBERED, REMEMBERED_NOTE, costs, inverse
from training.reports.tables.intervals import error_rate
from training.reports.tables.records import Record, Records, commands_for_missing
from training.reports.tables.table import NOT_RUN, Grid, Table

# The names of rows, the experiments and the paper's errors, quoted from memory.
_ROWS = (
    ("affine Glow, 1x1 convolutions", "cifar10_classifier_glow_affine", "12.63"),
    ("additive Glow, reversed channels", "cifar10_classifier_glow_additive", "12.36"),
    ("i-ResNet of Glow's depth and width", "cifar10_classifier_glowlike", "8.03"),
    ("i-ResNet", "cifar10_classifier_c09", "6.69"),
)
_HEADER = (
    "model",
    "error, %",
    f"error, % ({REMEMBERED})",
    "parameters",
    "CPU-seconds",
    "steps",
    "seed",
    "inverse",
    "experiment",
)
_NOTES = (
    "Error on the test set in percent with Wilson's 95 % interval over test images, of one seed. "
    "Couplings have an analytic inverse; an i-ResNet's is proven where its blocks' bound is below "
    "1. All have the recipe of c = 0.9 of table 2, whose row is the last; learning rates are the "
    "better of two trials of each.",
    REMEMBERED_NOTE,
)


def make_table(records: Records) -> Table:
    """Makes the table.

    Raises:
      RunError: if results are damaged.
    """
    found = {name: records.find(name) for _, name, _ in _ROWS}
    rows = [[label, *_row(found[name], paper), name] for label, name, paper in _ROWS]
    title = "Table 3: error of invertible classifiers of CIFAR-10, in percent"
    return Table(title, [Grid(_HEADER, rows)], _NOTES, commands_for_missing(found))


def _row(record: Record | None, paper: str) -> list[str]:
    if record is None:
        return [NOT_RUN, paper, *[""] * 5]
    return [
        str(error_rate(record)),
        paper,
        *costs(record),
        str(record.seed),
        "analytic" if "glow_" in record.experiment else inverse([record]),
    ]
