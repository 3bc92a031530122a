"""The endless stream of training batches, which can be entered at any step."""

from collections.abc import Sequence

import tensorflow as tf

from training.data.augment import AUGMENT_WORDS, augment_images
from training.data.checks import check_augment, check_common, check_count
from training.data.preprocess import needs_labels, prepare, target
from training.data.randomness import example_words, shuffled_indices, stream_key
from training.data.share import WHOLE, Share
from training.data.spec import Dataset


def train_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    task: str,
    augment: Sequence[str] = (),
    start_step: int = 0,
    dtype: str = "float32",
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Makes an endless stream of full training batches.

    Batch t is a pure function of the arguments and t. It holds the places t * batch_size and on
    of an endless row of epochs, each shuffled anew, so that batches reach over the end of an
    epoch and every epoch uses every example once. Noise and augmentation belong to the place.

    Args:
      dataset: the data set, of which the split "train" is used.
      batch_size: the number of examples in every batch, over all replicas.
      seed: the run's seed.
      task: "density" for dequantised x, "classification" for scaled (x, y), "hybrid" for
        dequantised (x, y), or "conditional" for dequantised (x, one-hot y).
      augment: names from `AUGMENTATIONS`; their order does not matter.
      start_step: the number of the first batch; nothing before it is computed.
      dtype: the type of x, "float32" or "float64".
      share: which part of every batch to make; the examples are those of the whole batch.

    Returns:
      Batches of x [batch_size, *event_shape], or of such x with y [batch_size] in int32, which is
      [batch_size, num_classes] in the type of x for "conditional"; of a share, one element for each
      of its replicas.

    Raises:
      ValueError: if an argument cannot be used; the message names it.
      DataError: if the training images cannot be read.
    """
    spec = dataset.spec
    check_common(spec, batch_size, seed, task, dtype)
    check_augment(spec, augment)
    check_count("start_step", start_step, 0)
    arrays = dataset.arrays("train")
    order, noise, changes = (
        stream_key(seed, f"train/{purpose}") for purpose in ("order", "noise", "augment")
    )
    with tf.init_scope(), tf.device("CPU:0"):
        images = tf.constant(arrays.x)
        labels = tf.constant(arrays.labels) if needs_labels(task) else None

    def batch(element: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        begin, end = share.places(element, batch_size)
        first = (start_step + share.batch_of(element)) * batch_size + begin
        count = share.even(batch_size) or end - begin
        index = shuffled_indices(order, first, count, len(arrays.x))
        x = tf.gather(images, index)
        if augment:
            words = example_words(changes, first, count, AUGMENT_WORDS)
            x = augment_images(x, words, tuple(augment))
        x = prepare(spec, task, x, noise, first, dtype)
        x = tf.ensure_shape(x, (share.even(batch_size), *spec.event_shape))
        return x if labels is None else (x, target(spec, task, tf.gather(labels, index), dtype))

    options = tf.data.Options()
    options.deterministic = True
    # Workers of a cluster share out each batch: there are no files to share out.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    elements = tf.data.Dataset.counter()
    batches = elements.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2).with_options(options)
