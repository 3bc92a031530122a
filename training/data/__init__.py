"""Data sets in memory and the batches that training and evaluation read from them."""

from training.data.augment import AUGMENTATIONS, views
from training.data.evaluation import eval_arrays, eval_batches
from training.data.preprocess import TASKS
from training.data.registry import KNOWN_DATASETS, load_dataset
from training.data.share import Share
from training.data.spec import SPLITS, Arrays, DataError, Dataset, DataSpec, SplitRange
from training.data.stream import train_batches

__all__ = [
    "AUGMENTATIONS",
    "KNOWN_DATASETS",
    "SPLITS",
    "TASKS",
    "Arrays",
    "DataError",
    "DataSpec",
    "Dataset",
    "Share",
    "SplitRange",
    "eval_arrays",
    "eval_batches",
    "load_dataset",
    "train_batches",
    "views",
]
