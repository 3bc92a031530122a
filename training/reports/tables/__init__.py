"""The paper's tables, from the results of finished runs."""

from collections.abc import Callable
from pathlib import Path

from training.errors import RunError
from training.reports.tables import classification, densities, invertible_classifiers, properties
from training.reports.tables.records import Records
from training.reports.tables.table import Table
from training.runs.files import as_text, new_file, write_files
from training.typing import PathLike

_MAKERS = {
    "1": properties.make_table,
    "2": classification.make_table,
    "3": invertible_classifiers.make_table,
    "4": densities.make_table,
}


def prepare(number: str, results: PathLike, out: PathLike | None = None) -> Table:
    """Makes one of the paper's tables; what table 1 shows is measured first.

    Args:
      number: "1" to "4".
      results: the folder of finished runs.
      out: where it is going to be written, if anywhere: refused before any work.

    Raises:
      RunError: if an argument cannot be used, or results are damaged.
    """
    records = Records(results)
    _known(number)
    if out is not None:
        _files(out)
    if number == "1":
        properties.measure(records)
    return make_table(number, records)


def make_table(number: str, records: Records) -> Table:
    """Makes one of the paper's tables from the results; it names what was not run.

    Args:
      number: "1" to "4".
      records: the results.

    Raises:
      RunError: if there is no such table, or results are damaged.
    """
    return _known(number)(records)


def write_table(table: Table, out: PathLike) -> None:
    """Writes a table as Markdown and as PNG.

    Args:
      table: the table.
      out: either file, by its suffix `.md` or `.png`; the other one goes beside it.

    Raises:
      RunError: if the suffix is another one, or the files cannot be written.
    """
    from training.reports.tables.picture import draw_table

    text, picture = _files(out)
    write_files(
        {
            text: as_text(table.markdown() + "\n"),
            picture: lambda file: draw_table(table, file),
        }
    )


def _known(number: str) -> Callable[[Records], Table]:
    if number not in _MAKERS:
        raise RunError(f"table {number!r} does not exist; give one of {', '.join(_MAKERS)}")
    return _MAKERS[number]


def _files(out: PathLike) -> tuple[Path, Path]:
    path = Path(out)
    if path.suffix not in (".md", ".png"):
        raise RunError(f"--out {str(out)!r} cannot be written; name a .md or a .png file")
    return new_file(path.with_suffix(".md")), new_file(path.with_suffix(".png"))
