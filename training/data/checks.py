"""Refusals of arguments that no batches can be made from."""

from collections.abc import Sequence

from training.data.augment import AUGMENTATIONS
from training.data.preprocess import TASKS, needs_labels
from training.data.spec import SPLITS, DataSpec

_DTYPES = ("float32", "float64")


def check_count(name: str, value: int, least: int) -> None:
    """Refuses what is no integer of at least `least`.

    Args:
      name: of the argument.
      value: as given.
      least: the smallest allowed value.

    Raises:
      ValueError: if it is no integer, or too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name}={value!r} is no usable number; give an integer >= {least}")


def check_common(spec: DataSpec, batch_size: int, seed: int, task: str, dtype: str) -> None:
    """Refuses wrong arguments that training and evaluation have in common.

    Args:
      spec: the data set's description.
      batch_size: the number of examples in a batch.
      seed: the run's seed.
      task: what the batches are for.
      dtype: the type of x.

    Raises:
      ValueError: if one of them cannot be used.
    """
    check_count("batch_size", batch_size, 1)
    check_count("seed", seed, 0)
    if task not in TASKS:
        raise ValueError(f"task={task!r} does not exist; use one of {', '.join(TASKS)}")
    if needs_labels(task) and spec.num_classes is None:
        raise ValueError(f"task={task!r} needs labels, which {spec.name!r} has not; use 'density'")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} does not hold the data; use one of {', '.join(_DTYPES)}")


def check_augment(spec: DataSpec, augment: Sequence[str]) -> None:
    """Refuses augmentations that do not exist or that the data set cannot take.

    Args:
      spec: the data set's description.
      augment: names of augmentations.

    Raises:
      ValueError: if it is no sequence of known names, or the examples are no images.
    """
    known = ", ".join(AUGMENTATIONS)
    if isinstance(augment, str):
        raise ValueError(f"augment={augment!r} is a string; give a tuple, such as ({augment!r},)")
    for name in augment:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment={name!r} does not exist; use names from {known}")
    if augment and not spec.is_image:
        raise ValueError(f"augment={augment!r} is for images; leave it empty for {spec.name!r}")


def check_limit(spec: DataSpec, split: str, limit: int | None) -> int:
    """Returns how many examples of a split are asked for.

    Args:
      spec: the data set's description.
      split: the name of the split.
      limit: the number asked for, or None for all.

    Raises:
      ValueError: if there is no such split, or it has fewer examples.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} does not exist; use one of {', '.join(SPLITS)}")
    size = spec.splits[split].size
    if limit is None:
        return size
    check_count("limit", limit, 1)
    if limit > size:
        raise ValueError(
            f"limit={limit} is more than the {size} examples of {spec.name!r}, split {split!r}; "
            f"give at most {size}, or None for all"
        )
    return int(limit)
