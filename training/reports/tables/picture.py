"""A table as a picture."""

from typing import BinaryIO

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.reports.tables.table import Grid, Table

_LINE, _CHARACTER = 0.24, 0.083  # inches at the size of the text
_SIZE = 9


def draw_table(table: Table, file: BinaryIO) -> None:
    """Draws a table's grids under each other.

    Args:
      table: the table.
      file: where the PNG goes to.
    """
    widths = [_widths(grid) for grid in table.grids]
    heights = [_LINE * (len(grid.rows) + 2.4) for grid in table.grids]
    size = (max(map(sum, widths)) + 0.2, sum(heights) + 0.5)
    figure = Figure(figsize=size)
    figure.text(0.1 / size[0], 1 - 0.3 / size[1], table.title, size=_SIZE + 2, weight="bold")
    top = size[1] - 0.5
    for grid, columns, height in zip(table.grids, widths, heights, strict=True):
        left, y = 0.1, top - 0.7 * _LINE
        figure.text(left / size[0], y / size[1], grid.title, size=_SIZE, weight="bold")
        y -= 0.4 * _LINE
        _rule(figure, size, y, left + sum(columns))
        for number, row in enumerate([grid.header, *grid.rows]):
            y -= _LINE
            x = left
            for column, (cell, width) in enumerate(zip(row, columns, strict=True)):
                figure.text(
                    (x if not column else x + width - 0.1) / size[0],
                    (y + 0.06) / size[1],
                    cell,
                    size=_SIZE,
                    ha="left" if not column else "right",
                    weight="normal" if number else "bold",
                )
                x += width
            if not number:
                _rule(figure, size, y, left + sum(columns))
        _rule(figure, size, y, left + sum(columns))
        top -= height
    figure.savefig(file, format="png", dpi=150)


def _widths(grid: Grid) -> list[float]:
    columns = zip(grid.header, *grid.rows, strict=True)
    return [_CHARACTER * max(map(len, column)) + 0.2 for column in columns]


def _rule(figure: Figure, size: tuple[float, float], y: float, right: float) -> None:
    xs = [0.1 / size[0], right / size[0]]
    figure.add_artist(Line2D(xs, [y / size[1]] * 2, color="black", linewidth=0.6))
