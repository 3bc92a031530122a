"""How bits/dim fell during training, against the processor time spent."""

from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from training.errors import RunError
from training.figures.request import Drawing, Request
from training.figures.style import CYCLE, MARKERS, PAGE, letter, new_figure
from training.tables.records import Records

_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "digits, 8x8"}


def draw(request: Request) -> Drawing:
    """Draws the validation bits/dim of every flow of images among the results.

    Args:
        request: its results are read.

    Returns:
        The figure. The numbers are [CPU-seconds, bits/dim] of each run at its checkpoints, by data
        set and experiment.

    Raises:
        RunError: there is no such run, or a run's files are damaged.
    """
    curves: dict[str, dict[str, Any]] = {}
    results = Records(request.results)
    for record in results.all():
        if record.folder.parent != results.folder:
            continue  # a variant, such as a model of half the size
        data, _, rest = record.experiment.partition("_flow")
        points = [
            [item["cpu_seconds"], item["val_bits_per_dim"]]
            for item in record.history()
            if "val_bits_per_dim" in item and "cpu_seconds" in item
        ]
        if data in _TITLES and points:
            curves.setdefault(data, {})[f"flow{rest}"] = points
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


def _figure(curves: dict[str, dict[str, Any]]) -> Any:
    names = sorted({name for found in curves.values() for name in found})
    looks = {
        name: {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)]}
        | {"linestyle": "-" if i < len(CYCLE) else "--"}
        for i, name in enumerate(names)
    }
    shown = [data for data in _TITLES if data in curves]
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for index, (axes, data) in enumerate(zip(panels, shown, strict=True)):
        spent: list[float] = []
        for name, points in curves[data].items():
            seconds, bits = zip(*points, strict=True)
            spent += seconds
            axes.plot(seconds, bits, label=name.replace("_", " "), **looks[name])
        axes.set(xlabel="training (CPU-seconds)", xscale="log")
        wide = max(spent) > _WIDE * min(spent)  # numbers at 1, 2 and 5 would overlap
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        letter(axes, index, _TITLES[data])
    panels[0].set_ylabel("validation bits/dim")
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(
        handles=[lines[name.replace("_", " ")] for name in names],
        loc="outside lower center",
        ncols=min(len(names), 5),
    )
    return figure
