"""Grids of images inside figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from training.measures import pictures
from training.measures.finished import Finished
from training.reports.figures.style import new_figure


def as_pixels(finished: Finished, samples: np.ndarray) -> np.ndarray:
    """Turns samples of a flow of images into pixels from 0 to 1.

    Args:
      finished: the run.
      samples: values from 0 to its number of levels.
    """
    levels = finished.dataset.spec.levels or 1
    return np.clip(np.floor(samples), 0, levels - 1) / max(levels - 1, 1)


def rows_figure(rows: Sequence[np.ndarray], labels: Sequence[str], width: float) -> Figure:
    """Draws labelled rows of images.

    Args:
      rows: arrays [n, height, width, channels] of pixels from 0 to 1.
      labels: one for each row; empty for none.
      width: in inches.
    """
    room = 0.65 if any(labels) else 0.0
    cell = (width - room) / max(map(len, rows))
    figure = new_figure(width, cell * len(rows), padding=0.01)
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, images, label in zip(panels, rows, labels, strict=True):
        axes.imshow(pictures.image_rows([images]), interpolation="nearest")
        # What is left over is room for the label.
        axes.set(xticks=[], yticks=[], anchor="E" if room else "C")
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
