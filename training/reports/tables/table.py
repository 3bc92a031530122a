"""A table as data, and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

NOT_RUN = "not run"


@dataclass(frozen=True)
class Grid:
    """Rows under a header.

    Args:
      header: names of the columns.
      rows: as many cells each.
      title: what the rows are of; empty for the table's own title.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells under {len(self.header)} names")

    def markdown(self) -> str:
        """Writes the grid with its first column to the left and the others to the right."""
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        lines = [_line(self.header), _line(rule, escape=False), *map(_line, self.rows)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """Grids that belong together.

    Args:
      title: what the table shows.
      grids: the first one is the paper's table, the others say what its numbers rest on.
      notes: how to read it, one paragraph each.
      missing: the commands that make what was not run.
    """

    title: str
    grids: Sequence[Grid]
    notes: Sequence[str] = ()
    missing: Sequence[str] = field(default=())

    def markdown(self, level: int = 2) -> str:
        """Writes the table in Markdown, without a newline at the end.

        Args:
          level: of its heading.
        """
        parts = [f"{'#' * level} {self.title}"]
        for grid in self.grids:
            parts += [f"**{grid.title}**"] if grid.title else []
            parts.append(grid.markdown())
        parts += self.notes
        if self.missing:
            commands = "\n".join(["```sh", *self.missing, "```"])
            parts.append(f"What is marked “{NOT_RUN}” is made by:\n\n{commands}")
        return "\n\n".join(parts)


def _line(cells: Sequence[str], escape: bool = True) -> str:
    shown = [" ".join(cell.split()).replace("|", "\\|") if escape else cell for cell in cells]
    return f"| {' | '.join(shown)} |"
