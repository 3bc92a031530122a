"""PNG pictures of arrays: grids of images, and densities in the plane."""

from typing import BinaryIO

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

_LEAST_SIDE = 56  # images smaller than this are enlarged by a whole factor
_GAP = 1
REACH = 4.0  # toy densities lie in the square from -4 to 4


def image_rows(rows: list[np.ndarray], marked: np.ndarray | None = None) -> np.ndarray:
    """Sets rows of images under each other.

    Args:
      rows: arrays [n, height, width, channels] with values from 0 to 1; NaN shows as grey.
      marked: booleans [n]; the columns of these get a red frame.

    Returns:
      RGB values [height, width, 3] from 0 to 1.
    """
    height, width = rows[0].shape[1:3]
    factor = max(1, -(-_LEAST_SIDE // max(height, width)))
    lines = []
    for images in rows:
        cells = np.clip(np.nan_to_num(images.astype(np.float64), nan=0.5), 0, 1)
        cells = cells if cells.shape[-1] == 3 else np.repeat(cells[..., :1], 3, axis=-1)
        cells = cells.repeat(factor, axis=1).repeat(factor, axis=2)
        edge = 2 * _GAP
        cells = np.pad(cells, ((0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=1.0)
        if marked is not None:
            frame = np.ones(cells.shape[1:3], bool)
            frame[edge:-edge, edge:-edge] = False
            cells[np.ix_(marked)] = np.where(frame[..., None], [0.9, 0.1, 0.1], cells[marked])
        lines.append(np.concatenate(list(cells), axis=1))
    return np.concatenate(lines, axis=0)


def image_grid(images: np.ndarray) -> np.ndarray:
    """Sets images into a grid about as wide as it is high.

    Args:
      images: an array [n, height, width, channels] with values from 0 to 1.

    Returns:
      RGB values [height, width, 3] from 0 to 1.
    """
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    blank = np.ones((rows * columns - len(images), *images.shape[1:]))
    cells = np.concatenate([images, blank])
    return image_rows([cells[i * columns : (i + 1) * columns] for i in range(rows)])


def write_image(file: BinaryIO, rgb: np.ndarray) -> None:
    """Writes RGB values as a PNG.

    Args:
      file: where to.
      rgb: values [height, width, 3] from 0 to 1.
    """
    matplotlib.image.imsave(file, rgb, format="png")


def plane_points(side: int = 200) -> np.ndarray:
    """Returns the centres of a square grid's cells over the plane of the toy densities.

    Args:
      side: the number of cells along an edge.

    Returns:
      Points [side * side, 2], row by row from the bottom.
    """
    middles = (np.arange(side) + 0.5) * (2 * REACH / side) - REACH
    x, y = np.meshgrid(middles, middles)
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def write_plane(file: BinaryIO, titles: list[str], panels: list[np.ndarray]) -> None:
    """Draws densities and points beside each other.

    Args:
      file: where to.
      titles: one for each panel.
      panels: a density [side, side] at `plane_points`, or points [n, 2].
    """
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    extent = (-REACH, REACH, -REACH, REACH)
    for axes, title, panel in zip(figure.subplots(1, len(panels)), titles, panels, strict=True):
        if panel.shape[1] == 2:
            axes.scatter(*panel.T, s=2, linewidths=0, color="black")
        else:
            axes.imshow(panel, origin="lower", extent=extent, cmap="viridis")
        axes.set(title=title, xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], aspect=1)
    figure.savefig(file, format="png", dpi=120)


def write_histograms(
    file: BinaryIO, label: str, values: dict[str, np.ndarray], mark: float, bins: int = 60
) -> None:
    """Draws histograms over one axis.

    Args:
      file: where to.
      label: what the values are.
      values: arrays by name; the first one is filled.
      mark: a value to mark by a line.
      bins: how many, over the range of all values.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([*values.values()]), bins)
    for number, (name, array) in enumerate(values.items()):
        heights, _ = np.histogram(array, edges, density=True)
        axes.stairs(heights, edges, fill=not number, alpha=1 if number else 0.4, label=name)
    axes.axvline(mark, color="black", linewidth=0.8)
    # Values that are all alike fill one bin, whose height would hide all others.
    axes.set(xlabel=label, ylabel="density", yscale="log")
    axes.legend()
    figure.savefig(file, format="png", dpi=120)
