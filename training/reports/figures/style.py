"""One look for all figures: a column's width, legible text, colours that all can tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

COLUMN, PAGE = 3.35, 6.9  # inches
# Okabe and Ito's colours, which differ for every kind of colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # text stays text
}


@contextmanager
def look() -> Iterator[None]:
    """Draws what is inside in the style of all figures."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float, padding: float = 0.04) -> Figure:
    """Makes a figure that needs no display, and whose parts keep apart.

    Args:
      width: in inches, `COLUMN` or `PAGE`.
      height: in inches.
      padding: around its panels, in inches.
    """
    layout = ConstrainedLayoutEngine(w_pad=padding, h_pad=padding, wspace=0.0, hspace=0.0)
    return Figure(figsize=(width, height), layout=layout)


def letter(axes: Axes, index: int, title: str = "") -> None:
    """Marks a panel by a letter before its title.

    Args:
      axes: the panel.
      index: 0 for a.
      title: what it shows.
    """
    axes.set_title(f"({chr(ord('a') + index)}) {title}".strip(), loc="left")
