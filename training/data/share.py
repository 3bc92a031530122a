"""Which examples of a batch a pipeline reads, where several devices share the batch."""

from dataclasses import dataclass

import tensorflow as tf

from training.data.randomness import Whole


@dataclass(frozen=True)
class Share:
    """A pipeline's part of every batch: that of `replicas` consecutive replicas out of `of`.

    The pipeline yields one element per replica: first those of batch 0, then those of batch 1.
    Replica r of R reads the places from r / R to (r + 1) / R of a batch, rounded down.

    Args:
      first: the first replica that this pipeline feeds.
      replicas: how many it feeds.
      of: how many there are in all pipelines.
    """

    first: int = 0
    replicas: int = 1
    of: int = 1

    def even(self, batch_size: int) -> int | None:
        """The size of all elements; None where they differ."""
        return None if batch_size % self.of else batch_size // self.of

    def batch_of(self, element: tf.Tensor) -> tf.Tensor:
        """The number of the batch that an element is a part of."""
        return element // self.replicas

    def places(self, element: tf.Tensor, batch_size: Whole) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where an element begins in its batch, and where the next one does.

        Args:
          element: the number of the element, an int64 scalar.
          batch_size: the number of examples in its batch.
        """
        replica = self.first + element % self.replicas
        return batch_size * replica // self.of, batch_size * (replica + 1) // self.of


WHOLE = Share()
