"""What a model reads of a split, in order, and the seeds that belong to it."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from training.data import DataError, eval_batches
from training.data.randomness import stream_key
from training.measures.finished import Finished


def batches_with_index(
    finished: Finished, split: str, limit: int | None, batch_size: int | None = None
) -> Iterator[tuple[int, tuple[tf.Tensor, ...]]]:
    """Goes through a split in order.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use; None for all.
      batch_size: the size of a batch; None takes the experiment's.

    Yields:
      The index of a batch's first example, and a tuple of what `eval_batches` gives: x, and where
      there are any, labels or contexts.

    Raises:
      DataError: if there is no such split, or it has fewer examples.
    """
    experiment = finished.experiment
    try:
        batches = eval_batches(
            finished.dataset,
            split,
            batch_size or experiment.eval_batch_size,
            seed=experiment.seed,
            task=experiment.data_task,
            limit=limit,
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    first = 0
    for batch in batches:
        parts = batch if isinstance(batch, tuple) else (batch,)
        yield first, parts
        first += int(parts[0].shape[0])


def inputs_with_index(
    finished: Finished, split: str, limit: int | None, batch_size: int | None = None
) -> Iterator[tuple[int, tuple[tf.Tensor, ...]]]:
    """Goes through what the model reads of a split; arguments as in `batches_with_index`.

    Yields:
      The index of a batch's first example, and a tuple as `Finished.input_specs` describes it.
    """
    count = len(finished.input_specs)
    for first, parts in batches_with_index(finished, split, limit, batch_size):
        yield first, parts[:count]


def probe_seed(seed: int, purpose: str, first: int) -> np.ndarray:
    """Derives the seed of a batch's probes.

    Args:
      seed: the run's seed.
      purpose: what they are for; two purposes never share numbers.
      first: the index of the batch's first example.

    Returns:
      Three int32 words, as the library's models take them.
    """
    key = np.array([stream_key(seed, purpose)], np.uint64).view(np.int32)
    return np.append(key, np.int32(first)).astype(np.int32)
