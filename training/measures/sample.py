"""Pictures of what a flow generates."""

import math

import numpy as np
import tensorflow as tf

from tf_iresnet.log_det import Exact
from training.errors import RunError
from training.measures import pictures
from training.measures.finished import Finished
from training.measures.inputs import probe_seed
from training.runs.files import new_file, write_files
from training.typing import PathLike


def draw_samples(
    finished: Finished, count: int, *, seed: int = 0, temperature: float = 1.0
) -> np.ndarray:
    """Draws samples; the first ones do not depend on how many are drawn.

    Those of a conditional flow are of the first class, the second and so on, in turn.

    Args:
      finished: the run of a flow.
      count: the number of samples.
      seed: the seed.
      temperature: scales the latents' spread.

    Returns:
      Samples [count, *event_shape]: points, or pixels from 0 to levels.

    Raises:
      RunError: if the model has no density, or an argument is out of range.
      ConvergenceError: if an inverse was not found.
    """
    if not finished.is_flow:
        name = finished.experiment.name
        raise RunError(f"{name} is a classifier, which has no samples; give a flow's folder")
    if count < 1:
        raise RunError(f"--n {count} is too small; draw at least 1")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RunError(f"--temperature {temperature} cannot be used; give a number above 0")
    size = finished.experiment.eval_batch_size
    parts = []
    for first in range(0, count, size):
        number = min(size, count - first)
        conditions: dict[str, tf.Tensor] = {}
        if finished.is_conditional:
            classes = finished.dataset.spec.classes
            conditions["context"] = tf.one_hot((first + np.arange(number)) % classes, classes)
        drawn = finished.model.sample(
            number, tf.constant(probe_seed(seed, "samples", first)), temperature, **conditions
        )
        parts.append(drawn.numpy())
    return np.concatenate(parts)


def write_samples(
    finished: Finished,
    out: PathLike,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> None:
    """Writes a picture of samples: a grid of images, or a density beside points.

    A conditional flow's picture has a row of images, or a density, for each class.

    Args:
      finished: the run of a flow.
      out: the picture's file.
      count: the number of samples.
      seed: the seed.
      temperature: scales the latents' spread.

    Raises:
      RunError: if the model has no density, or an argument or the file cannot be used.
      ConvergenceError: if an inverse was not found.
    """
    path, levels = new_file(out), finished.dataset.spec.levels
    samples = draw_samples(finished, count, seed=seed, temperature=temperature)
    if levels is not None:
        pixels = np.clip(np.floor(samples), 0, levels - 1) / (levels - 1)
        rows = _rows_by_class(finished, pixels) if finished.is_conditional else None
        picture = pictures.image_grid(pixels) if rows is None else pictures.image_rows(rows)
        write_files({path: lambda file: pictures.write_image(file, picture)})
        return
    if finished.is_conditional:
        contexts = np.eye(finished.dataset.spec.classes, dtype=np.float32)
        heights = [density_of_plane(finished, seed, context) for context in contexts]
        titles = [f"class {label}" for label in range(len(contexts))]
    else:
        heights, titles = [density_of_plane(finished, seed)], ["density"]
    data = finished.dataset.arrays("test").x[:count]
    panels = [*heights, samples, data]
    write_files(
        {path: lambda file: pictures.write_plane(file, [*titles, "samples", "data"], panels)}
    )


def _rows_by_class(finished: Finished, images: np.ndarray) -> list[np.ndarray]:
    classes = finished.dataset.spec.classes
    blank = np.ones((-len(images) % classes, *images.shape[1:]))
    cells = np.concatenate([images, blank])
    return [cells[label::classes] for label in range(classes)]


def density_of_plane(
    finished: Finished, seed: int, context: np.ndarray | None = None
) -> np.ndarray:
    """Evaluates a flow's density, with exact log-determinants, over the plane.

    Args:
      finished: the run of a flow of points.
      seed: of what is random in the preprocessing; a flow of points has none.
      context: of a conditional flow.

    Returns:
      The density [side, side] at `pictures.plane_points`.
    """
    density, points, bits = finished.bits_per_dim_by(Exact()), pictures.plane_points(), []
    for first in range(0, len(points), 4_000):
        x = points[first : first + 4_000]
        rows = [] if context is None else [np.tile(context, (len(x), 1))]
        bits.append(density(probe_seed(seed, "picture", first), x, *rows).numpy())
    side = math.isqrt(len(points))
    return np.exp2(-np.concatenate(bits) * points.shape[1]).reshape(side, side)
