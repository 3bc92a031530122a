"""Samples of a flow of images at several temperatures, from the same noise."""

from training.measures.sample import draw_samples
from training.reports.figures.images import as_pixels, rows_figure
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import COLUMN

_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
_SHOWN = 8


def draw(request: Request) -> Drawing:
    """Draws a row of samples for each temperature.

    Args:
      request: its run is that of a flow of images; its limit is the samples of a row.

    Returns:
      The figure. The numbers are the temperatures, and the samples' standard deviation of a pixel
      at each, from 0 to 1.
    """
    finished = request.flow(images=True)
    count = request.count(_SHOWN, _SHOWN)
    rows = [
        as_pixels(finished, draw_samples(finished, count, seed=request.seed, temperature=t))
        for t in _TEMPERATURES
    ]
    numbers = {
        "temperatures": list(_TEMPERATURES),
        "standard_deviations": [float(row.std()) for row in rows],
    }
    caption = (
        f"Samples of {finished.experiment.name} from the same noise, scaled by the temperature T."
    )
    labels = [f"$T = {t:g}$" for t in _TEMPERATURES]
    return Drawing(rows_figure(rows, labels, COLUMN), caption, numbers)
