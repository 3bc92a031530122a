"""Table 4: bits/dim of flows."""

from training.reports.tables.cells import (
    DATASETS,
    REMEMBERED,
    REMEMBERED_NOTE,
    bits,
    costs,
    likelihood,
)
from training.reports.tables.records import Record, Records, commands_for_missing
from training.reports.tables.table import NOT_RUN, Grid, Table

# The names of rows, the experiments' endings and the paper's bits/dim, quoted from memory.
ROWS = (
    ("NICE", "_nice", "4.36", "4.48"),
    ("MAF", "_maf", "1.89", "4.31"),
    ("Real-NVP", "_realnvp", "1.06", "3.49"),
    ("Glow", "_glow", "1.05", "3.35"),
    ("FFJORD", "_ffjord", "0.99", "3.40"),
    ("i-ResNet", "_iresnet", "1.06", "3.45"),
    ("Residual Flow", "_residual", "0.97", "3.28"),
    ("i-DenseNet", "_idensenet", "–", "–"),
    ("ours, longest training", "", "–", "–"),
)
_HEADER = (
    "model",
    "bits/dim",
    f"bits/dim ({REMEMBERED})",
    "likelihood",
    "parameters",
    "CPU-seconds",
    "steps",
    "seed",
    "test images",
    "experiment",
)
_NOTES = (
    "Bits/dim with its standard error over test images: one uniform dequantisation and one draw of "
    "the estimator per image. Less is better.",
    "The rows compare with each other by what is in the grids below, and not with the paper, whose "
    "models are larger and were trained for days on GPUs. On MNIST, ours is over the 784 "
    "dimensions of 28x28 images, while the paper's code pads to 32x32: not strictly comparable. "
    "The paper's NICE is of whitened images, which is another density. MADE (2.04 and 5.67 in the "
    "paper, as remembered) is not part of this project. MAF's networks are masked convolutions: "
    "the paper's dense ones, with no more parameters than the others, would have a hundred hidden "
    "units on MNIST and 32 on CIFAR-10.",
    REMEMBERED_NOTE,
)


def make_table(records: Records) -> Table:
    """Makes the table in the paper's layout, and with what its numbers rest on.

    Raises:
      RunError: if results are damaged.
    """
    names = [f"{data}_flow{ending}" for data in DATASETS for _, ending, *_ in ROWS]
    found = {name: records.find(name) for name in names}
    header = ["model"]
    for name in DATASETS.values():
        header += [name, f"{name} ({REMEMBERED})"]
    overview = []
    for label, ending, *paper in ROWS:
        row = [label]
        for data, remembered in zip(DATASETS, paper, strict=True):
            row += [_bits(found[f"{data}_flow{ending}"]), remembered]
        overview.append(row)
    details = [
        Grid(
            _HEADER,
            [
                [label, *_row(found[f"{data}_flow{ending}"], paper[index]), f"{data}_flow{ending}"]
                for label, ending, *paper in ROWS
            ],
            title=name,
        )
        for index, (data, name) in enumerate(DATASETS.items())
    ]
    return Table(
        title="Table 4: bits/dim of densities",
        grids=[Grid(header, overview), *details],
        notes=_NOTES,
        missing=commands_for_missing(found),
    )


def _bits(record: Record | None) -> str:
    return NOT_RUN if record is None else bits(record)


def _row(record: Record | None, paper: str) -> list[str]:
    if record is None:
        return [NOT_RUN, paper, *[""] * 6]
    return [
        bits(record),
        paper,
        likelihood(record),
        *costs(record),
        str(record.seed),
        f"{record.number('images'):,.0f}",
    ]
