"""Figure 5: samples of a flow of images."""

import numpy as np

from training.measures.sample import draw_samples
from training.reports.figures.images import as_pixels, rows_figure
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import COLUMN

_SIDE = 8


def draw(request: Request) -> Drawing:
    """Draws a square of samples, none of them chosen.

    Args:
      request: its run is that of a flow of images; its limit is how many are drawn at most.

    Returns:
      The figure. The numbers are the samples' mean and standard deviation of a pixel, and those of
      as many test images, from 0 to 1.
    """
    finished = request.flow(images=True)
    side = max(1, int(np.sqrt(request.count(_SIDE**2, _SIDE**2))))
    pixels = as_pixels(finished, draw_samples(finished, side * side, seed=request.seed))
    levels = finished.dataset.spec.levels or 1
    data = finished.dataset.arrays("test").x[: side * side] / max(levels - 1, 1)
    numbers = {
        "samples": side * side,
        "temperature": 1.0,
        "mean": float(pixels.mean()),
        "standard_deviation": float(pixels.std()),
        "test_mean": float(data.mean()),
        "test_standard_deviation": float(data.std()),
    }
    rows = list(pixels.reshape(side, side, *pixels.shape[1:]))
    caption = (
        f"{side * side} samples of {finished.experiment.name} with seed {request.seed}, none of "
        "them chosen."
    )
    return Drawing(rows_figure(rows, [""] * side, COLUMN), caption, numbers)
