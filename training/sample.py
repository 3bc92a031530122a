"""Pictures of what a flow generates."""

import math
import os

import numpy as np
import tensorflow as tf

from tf_iresnet.log_det import Exact
from training import pictures
from training.errors import RunError
from training.evaluate import bits_function, probe_seed
from training.finished import Finished, new_file


def draw_samples(
    finished: Finished, count: int, *, seed: int = 0, temperature: float = 1.0
) -> np.ndarray:
    """Draws samples; the first ones do not depend on how many are drawn.

    Args:
        finished: the run of a flow.
        count: the number of samples.
        seed: the seed.
        temperature: scales the latents' spread.

    Returns:
        Samples [count, *event_shape]: points, or pixels from 0 to levels.

    Raises:
        RunError: the model has no density, or an argument is out of range.
        ConvergenceError: an inverse was not found.
    """
    if not finished.is_flow:
        name = finished.experiment.name
        raise RunError(f"{name} is a classifier, which has no samples; give a flow's folder")
    if count < 1:
        raise RunError(f"--n {count} is too small; draw at least 1")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RunError(f"--temperature {temperature} cannot be used; give a number above 0")
    size = finished.experiment.eval_batch_size
    parts = [
        finished.model.sample(
            min(size, count - first),
            seed=tf.constant(probe_seed(seed, "samples", first)),
            temperature=temperature,
        ).numpy()
        for first in range(0, count, size)
    ]
    return np.concatenate(parts)


def write_samples(
    finished: Finished,
    out: str | os.PathLike[str],
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> None:
    """Writes a picture of samples: a grid of images, or a density beside points.

    Args:
        finished: the run of a flow.
        out: the picture's file.
        count: the number of samples.
        seed: the seed.
        temperature: scales the latents' spread.

    Raises:
        RunError: the model has no density, or an argument or the file cannot be used.
        ConvergenceError: an inverse was not found.
    """
    path, levels = new_file(out), finished.dataset.spec.levels
    samples = draw_samples(finished, count, seed=seed, temperature=temperature)
    if levels is not None:
        pixels = np.clip(np.floor(samples), 0, levels - 1) / (levels - 1)
        pictures.write_image(path, pictures.image_grid(pixels))
        return
    density, points = bits_function(finished, Exact()), pictures.plane_points()
    bits = [
        density(points[first : first + 4_000], probe_seed(seed, "picture", first)).numpy()
        for first in range(0, len(points), 4_000)
    ]
    side = math.isqrt(len(points))
    height = np.exp2(-np.concatenate(bits) * points.shape[1]).reshape(side, side)
    data = finished.dataset.arrays("test").x[:count]
    pictures.write_plane(path, ["density", "samples", "data"], [height, samples, data])
