"""Figure 3: encoded test images as the fixed-point iteration decodes them, with and without c."""

import numpy as np
from matplotlib.figure import Figure

from training.errors import RunError
from training.measures.reconstruct import RoundTrips, round_trips
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import PAGE, new_figure
from training.typing import Numbers

_CHECKED, _SHOWN = 1_000, 12


def draw(request: Request) -> Drawing:
    """Draws test images over their reconstructions by both networks.

    Args:
      request: its runs are a constrained and an unconstrained network of the same images; its
        limit is how many are reconstructed.

    Returns:
      The figure. The numbers are each network's largest and median error of an image, as shares of
      the pixels' range, and how many images' inverse was not found.

    Raises:
      RunError: if the runs are of different images, or of no images.
    """
    runs = request.finished()
    names = {run.dataset.spec.name for run in runs}
    if len(names) > 1:
        raise RunError(
            f"the runs are of different images ({', '.join(sorted(names))}); give two of one kind"
        )
    numbers: Numbers = {}
    rows, found = [], []
    for run in runs:
        trips = round_trips(run, request.count(_CHECKED, run.dataset.spec.split_sizes["test"]))
        coeff = getattr(run.experiment.model, "coeff", None)
        numbers[run.experiment.name] = {"coeff": coeff, **_described(trips)}
        found.append((run.experiment.name, trips))
        rows.append(_title(coeff, trips.errors.max()))
    return Drawing(_figure(rows, [trips for _, trips in found]), _caption(numbers), numbers)


def _title(coeff: float | None, worst: float) -> str:
    """Says which network a row is of, and how far its images come back."""
    network = "no constraint" if coeff is None else f"$c = {coeff}$"
    return f"{network}\n" + (f"error ≤ {worst:.1e}" if np.isfinite(worst) else "diverges")


def _described(trips: RoundTrips) -> Numbers:
    finite = trips.errors[np.isfinite(trips.errors)]
    return {
        "images": len(trips.errors),
        "largest_error": float(trips.errors.max()) if len(finite) == len(trips.errors) else None,
        "largest_finite_error": float(finite.max()) if len(finite) else None,
        "median_error": float(np.median(trips.errors)),
        "not_converged": int((~trips.converged).sum()),
    }


def _figure(titles: list[str], found: list[RoundTrips]) -> Figure:
    shown = min(_SHOWN, len(found[0].images))
    rows = [("test images", found[0].images)]
    rows += [(title, trips.reconstructions) for title, trips in zip(titles, found, strict=True)]
    figure = new_figure(PAGE, 0.09 + 0.52 * len(rows), padding=0.01)
    panels = figure.subplots(len(rows), shown, squeeze=False)
    for line, (title, images) in zip(panels, rows, strict=True):
        for axes, image in zip(line, images, strict=False):
            pixels = np.clip(np.nan_to_num(image, nan=0.5), 0, 1)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    return figure


def _caption(numbers: Numbers) -> str:
    parts = []
    for name, entry in numbers.items():
        error = entry["largest_error"]
        worst = "not finite" if error is None else f"{error:.2g} of the range"
        parts.append(
            f"by {name} the worst error of a pixel is {worst}, and the inverse of "
            f"{entry['not_converged']} was not found"
        )
    images = next(iter(numbers.values()))["images"]
    return f"Test images and their reconstructions. Of {images} images: {'; '.join(parts)}."
