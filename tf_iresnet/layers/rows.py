"""Rows of data for statistics, from whatever holds data."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import TypeGuard

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.layers.context import check_context
from tf_iresnet.typing import ArrayLike, BatchLike, Context, Data, DTypeLike, Inputs, Shape

_MOST, _FEWEST, _PIXELS = 8192, 256, 65536
_GROUP = 256  # rows that are evaluated at once


def enough(event_shape: Shape) -> int:
    """Returns how many examples statistics of the channels are taken from.

    Points: 8,192. Images, volumes and sequences, each of which holds many values of a channel:
    as many as have 65,536 pixels together, but at least 256.

    Args:
      event_shape: of one example, the channels last.

    Example:
    >>> enough((100,)), enough((8, 8, 1)), enough((32, 32, 3))
    (8192, 1024, 256)
    """
    return min(_MOST, max(_FEWEST, _PIXELS // max(1, math.prod(event_shape[:-1]))))


def is_array(data: object) -> TypeGuard[tf.Tensor]:
    """Says whether data are one array or tensor, of NumPy, TensorFlow, PyTorch or pandas."""
    return tf.is_tensor(data) or hasattr(data, "__array__")


def check_contexts(
    owner: str, data: Data, context: Context, size: int | None, dtype: DTypeLike
) -> None:
    """Refuses a context that does not go with the data, or that the owner does not take.

    Args:
      owner: what the context is for, in messages.
      data: as for `batches`.
      context: as given.
      size: the number of its features; None if no context is taken.
      dtype: of what the owner computes.

    Raises:
      ValueError: if it is missing, not wanted, or of another shape.
    """
    if is_array(data):
        check_context(owner, context, size, tf.TensorSpec(data.shape, dtype))
    elif context is not None:
        raise ValueError(
            f"context goes beside an array; a {type(data).__name__} of pairs (x, context) has it."
        )


def batches(
    data: Data,
    beside: ArrayLike | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Iterator[BatchLike]:
    """Returns batches of data, as a training loop sees them.

    From arrays with more rows than are needed it takes rows at even distances, since the first rows
    may all be of one class.

    Args:
      data: an array or tensor; a tuple of such, of equal length; a `tf.data.Dataset`, distributed
        or not; a `keras.utils.PyDataset`; a PyTorch ``DataLoader``; any iterable over batches.
      beside: a second array, with a row for each of the first.
      batch_size: rows of a batch of arrays; 256 by default. Others make their own batches.
      steps: how many batches; None for as many as hold `enough` rows.

    Raises:
      ValueError: if the data are none of these, or a number is not at least 1.
    """
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return _batches(data if beside is None else (data, beside), batch_size, steps)


def _batches(data: Data, batch_size: int | None, steps: int | None) -> Iterator[BatchLike]:
    if is_array(data) or (isinstance(data, (tuple, list)) and data and all(map(is_array, data))):
        yield from _slices(data, batch_size or _GROUP, steps)
    elif batch_size is not None:
        raise ValueError(
            f"batch_size is for arrays, but a {type(data).__name__} makes its own batches; leave "
            "it out."
        )
    elif isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        yield from (data[i] for i in (itertools.count() if count is None else range(count)))
    elif isinstance(data, (list, tuple, dict, str, bytes)) or not hasattr(data, "__iter__"):
        raise ValueError(
            "data must be an array, a tf.data.Dataset, a PyDataset, a DataLoader or a generator of "
            f"batches, got {type(data).__name__}."
        )
    else:
        yield from data


def as_generator(data: Data) -> Data:
    """Returns an iterator as a generator, which Keras needs, and any other data as they are."""
    return (batch for batch in data) if hasattr(data, "__next__") else data


def peek(
    x: Data | None, y: ArrayLike | None, batch_size: int, share: float, steps: int | None
) -> tuple[Data | None, BatchLike | None, Iterator[BatchLike] | None]:
    """Looks at the first batches that `keras.Model.fit` is given.

    Args:
      x: as in `fit`.
      y: as in `fit`.
      batch_size: of arrays.
      share: of the rows of arrays, from the first on, that are trained on.
      steps: how many batches `fit` will draw; None for all.

    Returns:
      Data with the same batches as x, none of them lost; the first batch, None if there is none;
      and batches for statistics, None if x is no data for a model with one input.
    """
    if is_array(x):
        count = int(len(x) * share)
        arrays = tuple(as_tensor(array)[:count] for array in (x, y) if array is not None)
        return x, tuple(array[:batch_size] for array in arrays), batches(arrays)
    if x is None or isinstance(x, (list, tuple, dict)):
        return x, None, None
    if hasattr(x, "__next__"):
        drawn: list[BatchLike] = []

        def draw() -> Iterator[BatchLike]:
            for batch in itertools.islice(x, steps):
                drawn.append(batch)
                yield batch

        whole: Data = (batch for source in (drawn, x) for batch in source)
        found = draw()
    else:
        whole, found = x, batches(x)
    for first in found:
        return whole, first, itertools.chain([first], found)
    return whole, None, found


def finite_rows(group: Inputs) -> Inputs:
    """Returns those rows of a group that are finite in all its parts."""
    kept = np.ones(len(group["x"]), bool)
    for value in map(np.asarray, group.values()):
        if value.dtype.kind == "f" and len(value) == len(kept):
            kept &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    return group if kept.all() else {name: np.asarray(v)[kept] for name, v in group.items()}


def _slices(data: Data, size: int, steps: int | None) -> Iterator[BatchLike]:
    """Batches of an array, or of several at once."""
    arrays = [as_tensor(array) for array in (data if isinstance(data, (tuple, list)) else [data])]
    if not tf.executing_eagerly():
        raise ValueError("adapt looks at data; call it outside of tf.function.")
    if any(len(array.shape) == 0 for array in arrays):
        raise ValueError("data must have the shape [batch, ...], got a scalar.")
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            "arrays of data must have as many rows each, got "
            f"{' and '.join(str(len(array)) for array in arrays)}."
        )
    count = len(arrays[0])
    wanted = enough(arrays[0].shape[1:]) if steps is None else steps * size
    if wanted < count:
        index = np.linspace(0, count - 1, wanted).astype(int)
        arrays = [a[index] if isinstance(a, np.ndarray) else tf.gather(a, index) for a in arrays]
    for start in range(0, min(wanted, count), size):
        parts = tuple(array[start : start + size] for array in arrays)
        yield parts if isinstance(data, (tuple, list)) else parts[0]


def refuse_dictionary(name: str, value: object) -> None:
    """Refuses a dictionary, as `tensorflow_datasets` makes them, where one array is needed.

    Raises:
      ValueError: if it is one.
    """
    if isinstance(value, dict):
        raise ValueError(
            f"{name} must be one array, got a dictionary of {', '.join(map(str, value))}; pick "
            "what is to be learned, as by data.map(lambda batch: batch['image'])."
        )


def as_tensor(value: ArrayLike) -> tf.Tensor | np.ndarray:
    """Returns an array of another library as NumPy's; TensorFlow's tensors stay as they are."""
    if tf.is_tensor(value) or isinstance(value, (np.ndarray, tf.distribute.DistributedValues)):
        return value
    if hasattr(value, "detach"):  # PyTorch's, which may need a gradient or live on a device
        value = value.detach().cpu()
    return np.asarray(value)


def collect(
    found: Iterable[BatchLike],
    inputs_of: Callable[[BatchLike], Inputs],
    steps: int | None = None,
) -> list[Inputs]:
    """Gathers `enough` rows, or a number of batches, in groups that can be evaluated at once.

    Args:
      found: batches.
      inputs_of: returns what is needed of a batch by name, "x" among it.
      steps: how many batches; None for as many as hold `enough` rows.

    Returns:
      What `inputs_of` returned, small batches concatenated; at least one group.

    Raises:
      ValueError: if there are no rows.
    """
    groups: list[Inputs] = []
    held: list[Inputs] = []
    total = waiting = 0
    for batch in itertools.islice(found, steps):
        inputs = {name: _gather(value) for name, value in inputs_of(batch).items()}
        x = inputs["x"]
        if len(x.shape) == 0:
            raise ValueError("a batch must have the shape [rows, ...], got a scalar.")
        held.append(inputs)
        waiting, total = waiting + len(x), total + len(x)
        if waiting >= _GROUP:
            groups.append(_concatenate(held))
            held, waiting = [], 0
        if steps is None and total >= enough(x.shape[1:]):
            break
    if not total:
        raise ValueError("x holds no examples: nothing can be learned from it.")
    return [*groups, _concatenate(held)] if waiting else groups


def _gather(value: ArrayLike) -> tf.Tensor | np.ndarray:
    """Returns a part of a batch on one device."""
    if isinstance(value, tf.distribute.DistributedValues):
        strategy = tf.distribute.get_strategy()
        parts = strategy.experimental_local_results(value)
        here = len(parts) == strategy.num_replicas_in_sync
        return tf.concat(parts, axis=0) if here else strategy.gather(value, axis=0)
    refuse_dictionary("x", value)
    return as_tensor(value)


def _concatenate(parts: list[Inputs]) -> Inputs:
    if len(parts) == 1:
        return parts[0]
    return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
