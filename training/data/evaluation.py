"""Finite, ordered passes over a split: every example once, always with the same noise."""

import numpy as np
import tensorflow as tf

from training.data.checks import check_common, check_limit
from training.data.preprocess import needs_labels, prepare, target
from training.data.randomness import stream_key
from training.data.share import WHOLE, Share
from training.data.spec import Dataset

_CHUNK = 1_000


def eval_batches(
    dataset: Dataset,
    split: str,
    batch_size: int,
    *,
    seed: int,
    task: str,
    limit: int | None = None,
    dtype: str = "float32",
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Makes one ordered pass over a split, the last batch being as short as it comes.

    The noise of an example is a function of the seed, the split and its index in the split:
    neither `batch_size` nor `limit` changes it.

    Args:
      dataset: the data set.
      split: "train", "validation" or "test".
      batch_size: the number of examples in every batch but the last.
      seed: the seed of the dequantisation.
      task: "density" for dequantised x, "classification" for scaled (x, y), "hybrid" for
        dequantised (x, y), or "conditional" for dequantised (x, one-hot y).
      limit: how many examples to use, from the first on; None for all.
      dtype: the type of x, "float32" or "float64".
      share: which part of every batch to make; some of a short batch's parts may be empty.

    Returns:
      Batches of x [batch, *event_shape], or of such x with y [batch] in int32, which is
      [batch, num_classes] in the type of x for "conditional"; of a share, one element for each
      of its replicas.

    Raises:
      ValueError: if an argument cannot be used; the message names it.
      DataError: if the images cannot be read.
    """
    spec = dataset.spec
    check_common(spec, batch_size, seed, task, dtype)
    count = check_limit(spec, split, limit)
    arrays = dataset.arrays(split)
    noise = stream_key(seed, f"{split}/evaluation noise")
    with tf.init_scope(), tf.device("CPU:0"):
        images = tf.constant(arrays.x[:count])
        labels = tf.constant(arrays.labels[:count]) if needs_labels(task) else None

    def batch(element: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        start = share.batch_of(element) * batch_size
        begin, end = share.places(element, tf.minimum(count - start, batch_size))
        first, rows = start + begin, slice(start + begin, start + end)
        x = prepare(spec, task, images[rows], noise, first, dtype)
        x = tf.ensure_shape(x, (None, *spec.event_shape))
        return x if labels is None else (x, target(spec, task, labels[rows], dtype))

    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    elements = tf.data.Dataset.range(-(-count // batch_size) * share.replicas)
    batches = elements.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2).with_options(options)


def eval_arrays(
    dataset: Dataset,
    split: str,
    *,
    seed: int,
    task: str,
    limit: int | None = None,
    dtype: str = "float32",
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Returns what `eval_batches` yields as whole arrays: x for densities, (x, y) otherwise.

    Args:
      dataset: the data set.
      split: "train", "validation" or "test".
      seed: the seed of the dequantisation.
      task: as for `eval_batches`.
      limit: how many examples to use, from the first on; None for all.
      dtype: the type of x, "float32" or "float64".

    Raises:
      ValueError: if an argument cannot be used; the message names it.
      DataError: if the images cannot be read.
    """
    batches = eval_batches(dataset, split, _CHUNK, seed=seed, task=task, limit=limit, dtype=dtype)
    if not needs_labels(task):
        return np.concatenate(list(batches.as_numpy_iterator()))
    pairs = list(batches.as_numpy_iterator())
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
