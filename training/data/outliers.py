"""Images that do not belong to a data set."""

from collections.abc import Callable

import numpy as np

from training.data import Dataset, load_dataset
from training.data.randomness import stream_key
from training.errors import RunError
from training.typing import PathLike


def outliers(
    dataset: Dataset, count: int, seed: int, data_dir: PathLike | None = None
) -> dict[str, np.ndarray]:
    """Makes sets of outliers of a data set of images.

    Grey images: "rotated" are the test images by 90 degrees. Colour images of 32x32: "mnist" are
    MNIST's test images, padded by zeros. Both: "inverted" test images, "noise" of independent
    uniform pixels, and "constant" images, each of one random colour.

    Args:
      dataset: the data set.
      count: how many of each.
      seed: the seed of what is random.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.

    Returns:
      uint8 images [count, height, width, channels] by the set's name.

    Raises:
      RunError: if the data are no images.
      DataError: if a data set cannot be had.
    """
    spec = dataset.spec
    if spec.levels is None:
        raise RunError(f"{spec.name!r} holds no images; give the folder of a run on images")
    height, width, channels = spec.event_shape
    levels, test = spec.levels, dataset.arrays("test").x[:count]

    def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(stream_key(seed, f"outliers/{name}"))
        return rng.integers(0, levels, (count, *shape), np.uint8)

    sets: dict[str, Callable[[], np.ndarray]] = {}
    if channels == 1 and height == width:
        sets["rotated"] = lambda: np.rot90(test, axes=(1, 2))
    if spec.event_shape == (32, 32, 3):
        sets["mnist"] = lambda: _padded(load_dataset("mnist", data_dir).arrays("test").x[:count])
    sets["inverted"] = lambda: (levels - 1 - test.astype(np.int64)).astype(np.uint8)
    sets["noise"] = lambda: random("noise", (height, width, channels))
    sets["constant"] = lambda: np.tile(random("constant", (1, 1, channels)), (1, height, width, 1))
    return {name: np.ascontiguousarray(make()) for name, make in sets.items()}


def _padded(images: np.ndarray) -> np.ndarray:
    """Puts grey images of 28x28 into the middle of colour images of 32x32."""
    return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))), 3, axis=-1)
