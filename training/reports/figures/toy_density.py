"""Figure 2: densities and samples of flows on points in the plane."""

import math

import numpy as np
from matplotlib.figure import Figure

from training.errors import RunError
from training.measures import pictures
from training.measures.measuring import measure
from training.measures.sample import density_of_plane, draw_samples
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import PAGE, letter, new_figure
from training.typing import Numbers

_SAMPLES = 2_000
_TITLES = {"iresnet": "i-ResNet", "glow": "Glow"}


def draw(request: Request) -> Drawing:
    """Draws the data, and each flow's density over its samples.

    Args:
      request: its runs are flows of the same points; its limit is how many samples are drawn.

    Returns:
      The figure. The numbers are each flow's mean log-density of test points in nats, and the
      integral of its density over the square that is shown.

    Raises:
      RunError: if the runs are no flows of the same points in the plane.
    """
    runs = request.finished()
    specs = [run.dataset.spec for run in runs]
    points = all(run.is_flow and run.dataset.spec.event_shape == (2,) for run in runs)
    if not points or len({spec.name for spec in specs}) > 1:
        names = ", ".join(run.experiment.name for run in runs)
        raise RunError(
            f"figure 2 cannot be drawn from {names}; give flows of the same points in the plane"
        )
    data = runs[0].dataset.arrays("test").x
    count = request.count(_SAMPLES, len(data))
    columns, numbers = [("data", _histogram(runs[0].dataset.arrays("train").x), data[:count])], {}
    for run in runs:
        density = density_of_plane(run, request.seed)
        samples = draw_samples(run, count, seed=request.seed)
        architecture = getattr(run.experiment.model, "architecture", "iresnet")
        title = _TITLES.get(architecture, architecture)
        columns.append((title, density, samples))
        result = measure(run, "test", None)
        area = (2 * pictures.REACH) ** 2 / density.size
        numbers[run.experiment.name] = {
            "title": title,
            "log_prob": result["log_prob"],
            "standard_error": result["standard_error"] and result["standard_error"] * math.log(4),
            "test_points": result["images"],
            "integral": float(density.sum() * area),
            "samples": count,
        }
    return Drawing(_figure(columns), _caption(numbers), numbers)


def _histogram(points: np.ndarray) -> np.ndarray:
    reach = [-pictures.REACH, pictures.REACH]
    return np.histogram2d(points[:, 1], points[:, 0], bins=80, range=[reach] * 2, density=True)[0]


def _figure(columns: list[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    figure = new_figure(min(PAGE, 1.75 * len(columns)), 3.5)
    panels = figure.subplots(2, len(columns), squeeze=False)
    extent = (-pictures.REACH, pictures.REACH) * 2
    brightest = max(density.max() for _, density, _ in columns[1:])
    for index, (title, density, samples) in enumerate(columns):
        above, below = panels[:, index]
        above.imshow(density, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=brightest)
        below.scatter(*samples.T, s=0.6, linewidths=0, color="black", rasterized=True)
        letter(above, index, title)
        for axes in (above, below):
            axes.set(xlim=extent[:2], ylim=extent[:2], xticks=[], yticks=[], aspect=1)
            axes.spines[:].set_visible(True)
    panels[0, 0].set_ylabel("density")
    panels[1, 0].set_ylabel("samples")
    return figure


def _caption(numbers: Numbers) -> str:
    parts = [
        f"{entry['title']} {entry['log_prob']:.3f} ± {entry['standard_error']:.3f}"
        for entry in numbers.values()
    ]
    return (
        "Densities above and samples below, of the data (a histogram) and of flows, in one scale. "
        f"Mean log-density of test points in nats, with its standard error: {', '.join(parts)}."
    )
