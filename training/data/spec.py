"""What a data set is: a description, and arrays read on demand, split by split."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class DataError(RuntimeError):
    """A data set cannot be had; the message is one line and says what to do."""


class Arrays(NamedTuple):
    """The examples of one split, in order: `x` [n, *event_shape] and `y` [n], or None."""

    x: np.ndarray
    y: np.ndarray | None

    @property
    def labels(self) -> np.ndarray:
        """The labels `y` of a data set that has them."""
        assert self.y is not None, "the task was not checked against the data set"
        return self.y


@dataclass(frozen=True)
class SplitRange:
    """Where a split comes from: the examples `start` to `stop` of the part called `source`."""

    source: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.stop - self.start


@dataclass(frozen=True)
class DataSpec:
    """Everything known about a data set before its examples are read.

    Args:
      name: the name it is asked for by.
      event_shape: the shape of one example, (height, width, channels) or (2,).
      levels: how many values a pixel can take, 0 to levels - 1; None where x is continuous.
      num_classes: how many labels there are; None without labels.
      splits: the range of examples of "train", "validation" and "test".
    """

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    num_classes: int | None
    splits: Mapping[str, SplitRange]

    @property
    def dims(self) -> int:
        """The number of dimensions of one example, by which bits/dim divides."""
        return math.prod(self.event_shape)

    @property
    def classes(self) -> int:
        """The number of labels of a data set that has them."""
        assert self.num_classes is not None, "the task was not checked against the data set"
        return self.num_classes

    @property
    def is_image(self) -> bool:
        """Whether examples are images of pixels with a finite number of levels."""
        return self.levels is not None

    @property
    def split_sizes(self) -> dict[str, int]:
        """The number of examples of each split."""
        return {name: part.size for name, part in self.splits.items()}


class Dataset:
    """A description together with its examples, each source read at most once and only if used.

    Args:
      spec: the description.
      read: returns all the examples of a source in their fixed order. Splits are slices of it.
    """

    def __init__(self, spec: DataSpec, read: Callable[[str], Arrays]) -> None:
        self.spec = spec
        self._read = read
        self._sources: dict[str, Arrays] = {}

    def __repr__(self) -> str:
        return f"Dataset({self.spec.name!r}, event_shape={self.spec.event_shape})"

    def arrays(self, split: str) -> Arrays:
        """Returns the examples of a split as read-only arrays, without a copy.

        Args:
          split: "train", "validation" or "test".

        Returns:
          The examples in their fixed order: images uint8, labels int32.

        Raises:
          ValueError: if there is no such split.
          DataError: if the examples cannot be read, or are not as described.
        """
        if split not in self.spec.splits:
            raise ValueError(f"split={split!r} does not exist; use one of {', '.join(SPLITS)}")
        part = self.spec.splits[split]
        if part.source not in self._sources:
            self._sources[part.source] = self._checked(part.source)
        x, y = self._sources[part.source]
        rows = slice(part.start, part.stop)
        return Arrays(x[rows], None if y is None else y[rows])

    def _checked(self, source: str) -> Arrays:
        x, y = self._read(source)
        needed = max(part.stop for part in self.spec.splits.values() if part.source == source)
        if x.shape[1:] != self.spec.event_shape or len(x) < needed:
            raise DataError(
                f"data set {self.spec.name!r}, part {source!r}: {len(x)} examples of shape "
                f"{x.shape[1:]} were read instead of {needed} of {self.spec.event_shape}; "
                "prepare it again"
            )
        x.setflags(write=False)
        if y is not None:
            y.setflags(write=False)
        return Arrays(x, y)
