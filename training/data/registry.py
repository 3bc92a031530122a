"""Data sets by name."""

import difflib
import functools
from pathlib import Path

from training.data.digits import digits
from training.data.spec import DataError, Dataset
from training.data.tfds_images import data_folder, prepared_folder, tfds_images
from training.data.toy import TOY_NAMES, toy
from training.typing import PathLike

_TFDS_NAMES = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")
KNOWN_DATASETS = ("digits", *_TFDS_NAMES, *TOY_NAMES)


def load_dataset(
    name: str,
    data_dir: PathLike | None = None,
    *,
    toy_size: int = 20_000,
    toy_seed: int = 0,
) -> Dataset:
    """Finds a data set; its examples are read when first used, and once per process.

    The same arguments give the same object.

    Args:
      name: one of `KNOWN_DATASETS`, or any image classification set of TensorFlow Datasets that is
        prepared in the folder.
      data_dir: the folder of prepared TensorFlow Datasets; None takes TFDS_DATA_DIR.
      toy_size: the number of training points of a toy set.
      toy_seed: the seed a toy set is drawn from.

    Raises:
      DataError: if the name is unknown, or the set is not prepared in that folder.
      ValueError: if `toy_size` or `toy_seed` is out of range.
    """
    return _load(name, data_folder(data_dir), toy_size, toy_seed)


@functools.lru_cache(maxsize=8)
def _load(name: str, folder: Path, toy_size: int, toy_seed: int) -> Dataset:
    if name == "digits":
        return digits()
    if name in TOY_NAMES:
        return toy(name, size=toy_size, seed=toy_seed)
    if name in _TFDS_NAMES or (name and prepared_folder(name, folder)):
        return tfds_images(name, folder)
    close = difflib.get_close_matches(name, KNOWN_DATASETS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"data set {name!r} is unknown{hint}; known are {', '.join(KNOWN_DATASETS)}, and any image "
        f"classification set of TensorFlow Datasets prepared in {str(folder)!r}"
    )
