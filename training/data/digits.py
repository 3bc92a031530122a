"""scikit-learn's bundled 8x8 digits: the data set that needs no download."""

import numpy as np

from training.data.spec import Arrays, DataError, Dataset, DataSpec, SplitRange

_SPLITS = {
    "train": SplitRange("digits", 0, 1297),
    "validation": SplitRange("digits", 1297, 1497),
    "test": SplitRange("digits", 1497, 1797),
}
_ORDER_SEED = 8  # one fixed shuffle: the file's neighbours were written by the same hand


def digits() -> Dataset:
    """Describes the 1,797 digits: 1,297 to train on, 200 to validate, 300 to test.

    They have the shape (8, 8, 1), 17 levels, 0 to 16, and 10 classes.
    """
    return Dataset(DataSpec("digits", (8, 8, 1), 17, 10, _SPLITS), _read)


def _read(source: str) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "data set 'digits' comes with scikit-learn, which is not installed: "
            "run `pip install scikit-learn`"
        ) from error
    bunch = load_digits()
    order = np.random.default_rng(_ORDER_SEED).permutation(len(bunch.target))
    images = bunch.images[order].astype(np.uint8)[..., np.newaxis]
    return Arrays(images, bunch.target[order].astype(np.int32))
