"""Table 1: properties of the systems, each of them measured."""

from training.errors import RunError
from training.reports.tables.records import Records
from training.reports.tables.table import Grid, Table
from training.runs.files import read_json, write_json
from training.runs.machine import cpu_seconds, versions
from training.typing import JsonObject

_SYSTEMS = ("ResNet", "NICE", "Real-NVP", "Glow", "FFJORD", "i-ResNet", "Residual Flow")
_FILE = "properties.json"
_SEED = 0
_MARKS = {True: "yes", False: "no", None: "n/a"}
_NOTES = (
    "Of one layer of each system, measured: no mark is typed. “n/a” marks what has no meaning for "
    "a system.",
)


def measure(records: Records) -> None:
    """Measures the properties and writes them among the results."""
    from training.quiet import import_tensorflow

    import_tensorflow()
    from training.measures.properties import measure_properties

    before = cpu_seconds()
    found = measure_properties(seed=_SEED)
    content = {
        "command": "python -m training table 1",
        "seed": _SEED,
        "properties": found,
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "versions": versions(),
    }
    write_json(records.folder / _FILE, content)


def is_measured(records: Records) -> bool:
    """Whether the results hold a measurement of the properties."""
    return (records.folder / _FILE).exists()


def make_table(records: Records) -> Table:
    """Makes the table from the measurement among the results.

    Raises:
      RunError: if there is no measurement, or it is damaged.
    """
    path = records.folder / _FILE
    content = read_json(path)
    try:
        found = content["properties"]
        systems = [name for name in _SYSTEMS if name in found]
        properties = list(found[systems[0]])
        marks = [
            [name, *(_MARKS[found[system][name]["value"]] for system in systems)]
            for name in properties
        ]
        evidence = [
            [system, name, _MARKS[item["value"]], _numbers(item["evidence"])]
            for system in systems
            for name, item in found[system].items()
        ]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(
            f"{str(path)!r} is damaged; make it again by `python -m training table 1`"
        ) from error
    return Table(
        title="Table 1: properties",
        grids=[
            Grid(["", *systems], marks),
            Grid(["system", "property", "mark", "evidence"], evidence, title="Evidence"),
        ],
        notes=_NOTES,
    )


def _numbers(evidence: JsonObject) -> str:
    shown = {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in evidence.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
