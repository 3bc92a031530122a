"""Straight lines between test images in a flow's latent space, decoded."""

import numpy as np
import tensorflow as tf

from training.errors import RunError
from training.measures.inputs import batches_with_index
from training.reports.figures.images import as_pixels, rows_figure
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import COLUMN

_PAIRS, _STEPS = 5, 9


def draw(request: Request) -> Drawing:
    """Draws a row for each pair of neighbouring test images.

    Args:
      request: its run is that of a flow of images; its limit is how many pairs there are.

    Returns:
      The figure. The numbers are the shares of the way, and the largest error of a pixel of the
      images at the ends, as a share of the range.
    """
    finished = request.flow(images=True)
    pairs = request.count(_PAIRS, finished.dataset.spec.split_sizes["test"] // 2)
    _, (x, *_) = next(batches_with_index(finished, "test", 2 * pairs, 2 * pairs))
    shares_of_way = np.linspace(0.0, 1.0, _STEPS)
    z = finished.model.encode(x).numpy()
    between = [[(1 - t) * z[2 * i] + t * z[2 * i + 1] for t in shares_of_way] for i in range(pairs)]
    latents = np.concatenate(between).astype(z.dtype)
    result = finished.model.decode(tf.constant(latents), return_result=True)
    if not bool(tf.reduce_all(result.converged)):
        raise RunError(f"the inverse of {finished.experiment.name} was not found; certify the run")
    decoded = result.x.numpy().reshape(pairs, _STEPS, *x.shape[1:])
    ends = decoded[:, [0, -1]].reshape(x.shape)
    numbers = {
        "shares": shares_of_way.tolist(),
        "largest_error_at_ends": float(np.abs(ends - x.numpy()).max() / finished.span),
    }
    figure = rows_figure(list(as_pixels(finished, decoded)), [""] * pairs, COLUMN)
    caption = (
        f"Decoded points on straight lines between the latents of test images, which are at the "
        f"ends, by {finished.experiment.name}."
    )
    return Drawing(figure, caption, numbers)
