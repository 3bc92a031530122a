"""How far reconstructions are from the images after some fixed-point steps in each block.

A step is one evaluation of the branch, the first one at the start of the iteration.
"""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_iresnet.certificate import residual_blocks
from tf_iresnet.fixed_point import Picard
from training.measures.finished import Finished
from training.measures.inputs import batches_with_index
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import COLUMN, CYCLE, MARKERS, new_figure
from training.typing import Numbers

_IMAGES = 32
_STEPS = (1, 2, 3, 5, 8, 12, 20, 30, 50)
_LARGEST = 1e3  # what is beyond has diverged


def draw(request: Request) -> Drawing:
    """Draws the error after 1 to 50 steps for each run.

    Args:
      request: its runs may differ in c; its limit is how many test images are used.

    Returns:
      The figure. The numbers are, for each run, the median over images of the RMS error of an image
      as a share of the pixels' range, by steps; null where it is not finite.
    """
    numbers: Numbers = {"steps": list(_STEPS), "runs": []}
    for finished in request.finished():
        coeff = getattr(finished.experiment.model, "coeff", None)
        count = request.count(_IMAGES, finished.dataset.spec.split_sizes["test"])
        errors = [_error(finished, count, steps) for steps in _STEPS]
        numbers["runs"].append(
            {"experiment": finished.experiment.name, "coeff": coeff, "errors": errors}
        )
        numbers["images"] = count
    return Drawing(_figure(numbers), _caption(numbers), numbers)


def _error(finished: Finished, count: int, steps: int) -> float:
    """Returns the median error where every block's solver stops after some steps."""
    _, (x, *_) = next(batches_with_index(finished, "test", count, count))
    blocks = [block for _, block in residual_blocks(finished.model.flow)]
    solvers = [block.solver for block in blocks]
    model = finished.model
    try:
        for block in blocks:
            block.solver = Picard(max_steps=steps, atol=0.0, rtol=0.0)
        back = tf.function(lambda x: model.decode(model.encode(x), True).x, autograph=False)(x)
    finally:
        for block, solver in zip(blocks, solvers, strict=True):
            block.solver = solver
    squares = np.square((back.numpy().astype(np.float64) - x.numpy()) / finished.span)
    return float(np.median(np.sqrt(squares.mean(axis=tuple(range(1, squares.ndim))))))


def _figure(numbers: Numbers) -> Figure:
    figure = new_figure(COLUMN, 2.4)
    axes = figure.subplots()
    for index, run in enumerate(numbers["runs"]):
        label = "no constraint" if run["coeff"] is None else f"$c = {run['coeff']:g}$"
        errors = np.minimum(np.nan_to_num(run["errors"], nan=_LARGEST), _LARGEST)
        axes.plot(
            numbers["steps"], errors, color=CYCLE[index % 7], marker=MARKERS[index % 7], label=label
        )
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="evaluations of each branch", ylabel="RMS error (share of the range)")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend()
    return figure


def _caption(numbers: Numbers) -> str:
    return (
        f"Median error of {numbers['images']} reconstructed test images against the number of "
        f"evaluations of each branch by the fixed-point iteration, the first of which is at its "
        f"start; errors beyond {_LARGEST:g} are drawn there."
    )
