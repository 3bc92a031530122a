"""How bits/dim fell during training, against the processor time spent."""

from typing import TypeAlias

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from training.errors import RunError
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import CYCLE, MARKERS, PAGE, letter, new_figure
from training.reports.tables.densities import DATASETS, ROWS
from training.reports.tables.records import Records

#: [CPU-seconds, bits/dim] at each checkpoint, by data set and experiment.
Curves: TypeAlias = dict[str, dict[str, list[list[float]]]]

_LABELS = {f"flow{ending}": label for label, ending, *_ in ROWS}


def draw(request: Request) -> Drawing:
    """Draws the validation bits/dim of every flow of table 4 among the results.

    Args:
      request: its results are read.

    Returns:
      The figure. The numbers are [CPU-seconds, bits/dim] of each run at its checkpoints, by data
      set and experiment.

    Raises:
      RunError: if there is no such run, or a run's files are damaged.
    """
    curves: Curves = {}
    results = Records(request.results)
    for record in results.all():
        if record.folder.parent != results.folder:
            continue  # a variant, such as a model of half the size
        data, _, name = record.experiment.partition("_")
        points = [
            [item["cpu_seconds"], item["val_bits_per_dim"]]
            for item in record.history()
            if "val_bits_per_dim" in item and "cpu_seconds" in item
        ]
        if data in DATASETS and name in _LABELS and points:
            curves.setdefault(data, {})[name] = points
    if not curves:
        raise RunError(
            f"--results {str(request.results)!r} holds no flow with its history; train one"
        )
    return Drawing(_figure(curves), _CAPTION, curves)


_CAPTION = (
    "Bits/dim on validation images at the checkpoints of training, against the processor time of "
    "the whole training until then."
)


_WIDE = 30


def _figure(curves: Curves) -> Figure:
    looks = {
        name: {"color": CYCLE[i % len(CYCLE)], "linestyle": "-" if i < len(CYCLE) else "--"}
        | {"marker": MARKERS[(i + i // len(CYCLE)) % len(MARKERS)], "label": _LABELS[name]}
        for i, name in enumerate(_LABELS)
    }
    shown = [data for data in DATASETS if data in curves]
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for index, (axes, data) in enumerate(zip(panels, shown, strict=True)):
        spent: list[float] = []
        for name, points in curves[data].items():
            seconds, bits = zip(*points, strict=True)
            spent += seconds
            axes.plot(seconds, bits, **looks[name])
        axes.set(xlabel="training (CPU-seconds)", xscale="log")
        wide = max(spent) > _WIDE * min(spent)  # numbers at 1, 2 and 5 would overlap
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        letter(axes, index, DATASETS[data])
    panels[0].set_ylabel("validation bits/dim")
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(
        handles=[lines[label] for label in _LABELS.values() if label in lines],
        loc="outside lower center",
        ncols=min(len(lines), 5),
    )
    return figure
