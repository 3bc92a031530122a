"""Any prepared image classification set of TensorFlow Datasets."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from training.data.spec import Arrays, DataError, Dataset, DataSpec, SplitRange
from training.typing import PathLike

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

_VALIDATION = 5_000
_SMALL = 10_000  # a smaller training set gives up a tenth for validation


def data_folder(data_dir: PathLike | None) -> Path:
    """Returns the folder of prepared data sets, which need not exist.

    Args:
      data_dir: the folder. None takes the environment variable TFDS_DATA_DIR, and without that the
        place that TensorFlow Datasets itself uses.
    """
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(place).expanduser()


def prepared_folder(name: str, folder: Path) -> Path | None:
    """Finds the newest prepared version of a data set without importing TensorFlow Datasets.

    Args:
      name: "mnist", or "emnist/letters" with a configuration; ":1.2.3" may name a version.
      folder: the folder of prepared data sets.

    Returns:
      The folder of that version; None if there is none.
    """
    path, _, version = name.partition(":")
    found = [
        info.parent for info in (folder / path).glob(f"{version or '*.*.*'}/dataset_info.json")
    ]
    return max(found, key=lambda place: _version(place.name), default=None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in text.split("."))


def tfds_images(name: str, folder: Path) -> Dataset:
    """Describes a prepared data set with the features "image" and "label"; downloads nothing.

    The validation set is the last 5,000 training images, or the last tenth of a training set of
    fewer than 10,000.

    Args:
      name: the data set's name in TensorFlow Datasets.
      folder: the folder of prepared data sets.

    Raises:
      DataError: if the set is not prepared in that folder, or is no image classification set.
    """
    place = prepared_folder(name, folder)
    if place is None:
        raise DataError(
            f"data set {name!r} is not prepared in {str(folder)!r}: name the folder that has it "
            "with --data-dir or TFDS_DATA_DIR, or prepare it with "
            f"`tfds build {name} --data_dir {folder}`"
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"data set {name!r} needs TensorFlow Datasets: run `pip install tensorflow-datasets`"
        ) from error
    try:
        # Built from the files alone: the generating code could ask the network for the description.
        builder = tfds.builder_from_directory(place)
        return Dataset(_describe(name, builder), lambda source: _read(tfds, builder, source))
    except DataError:
        raise
    except Exception as error:  # whatever a damaged folder provokes
        raise _damaged(name, place, error) from error


def _damaged(name: str, place: Path | str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [""])[0]
    return DataError(
        f"data set {name!r} in {str(place)!r} cannot be read ({type(error).__name__}: {reason}); "
        "delete that folder and prepare it again"
    )


def _describe(name: str, builder: "DatasetBuilder") -> DataSpec:
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features or ()) or not {"train", "test"} <= set(splits):
        raise DataError(
            f"data set {name!r} has the features {sorted(features or ())} and splits "
            f"{sorted(splits)}; choose one with features image and label, splits train and test"
        )
    image, label = features["image"], features["label"]
    if None in image.shape or len(image.shape) != 3 or np.dtype(image.np_dtype) != np.uint8:
        raise DataError(
            f"data set {name!r} has images of shape {image.shape} and type "
            f"{np.dtype(image.np_dtype).name}; choose one with uint8 images of one fixed size"
        )
    train, test = splits["train"].num_examples, splits["test"].num_examples
    cut = train - (_VALIDATION if train >= _SMALL else train // 10)
    ranges = {
        "train": SplitRange("train", 0, cut),
        "validation": SplitRange("train", cut, train),
        "test": SplitRange("test", 0, test),
    }
    return DataSpec(name, tuple(image.shape), 256, getattr(label, "num_classes", None), ranges)


def _read(tfds: ModuleType, builder: "DatasetBuilder", source: str) -> Arrays:
    # One file after the other: the order of the examples is then that of the files, whatever
    # their number, and slices agree with TensorFlow Datasets' own "train[-5000:]".
    order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        columns = builder.as_dataset(
            split=source,
            batch_size=-1,
            shuffle_files=False,
            read_config=order,
            decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
        )
    except Exception as error:  # missing or cut files come up as many different types
        raise _damaged(builder.info.name, builder.data_path, error) from error
    return Arrays(np.array(columns["image"]), np.array(columns["label"]).astype(np.int32))
