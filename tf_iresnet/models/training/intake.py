"""What Keras' loops are given, checked before they do any work."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tf_iresnet.models.training.inputs import check_shape, is_array, no_y
from tf_iresnet.models.training.objective import Objective
from tf_iresnet.models.training.weights import check_class_weight
from tf_iresnet.typing import ArrayLike, BatchLike, Data


class Intake:
    """Honours or refuses the arguments of `fit`, `evaluate`, `predict` and steps on one batch.

    If the structure of a source's batches is not known before they are read, the first step checks
    it.

    Args:
      objective: the model's objective.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._reader = objective.reader

    def take(
        self, x: Data | None, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> tuple[Data | None, ArrayLike | None, ArrayLike | None]:
        """Checks what a loop was given, and returns it as Keras' loops keep it.

        Raises:
          ValueError: if it cannot be used.
        """
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            if y is None and sample_weight is None:  # if not, Keras says what is wrong
                self._check_specification(x.element_spec)
        elif x is not None and is_array(x):
            batch = self._reader.read((x, y, sample_weight))
            self._reader.check_placeholder(batch.y)
            self._objective.check_examples(batch)
            if y is None and sample_weight is not None:
                y = no_y(len(x))
        return x, y, sample_weight

    def check_validation(self, data: Data | BatchLike | None) -> Data | BatchLike | None:
        """Checks ``validation_data`` of `fit`, and returns it as Keras' loops keep it.

        Raises:
          ValueError: if it cannot be used.
        """
        if isinstance(data, (tuple, list)):
            return self.take(*data)
        if data is not None:
            self.take(data)
        return data

    def check_inputs(self, x: Data) -> None:
        """Checks what `predict` was given.

        Raises:
          ValueError: if it cannot be used.
        """
        complete = self._objective.conditional
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            self._check_specification(x.element_spec, complete)
        elif is_array(x):
            self._objective.check_examples(self._reader.read(x, complete), densities=False)

    def check_class_weight(self, weights: Mapping[int, float] | None) -> None:
        """Checks the weights of classes, if there are any.

        Raises:
          ValueError: if they cannot be used.
        """
        if weights is not None:
            check_class_weight(weights, self._reader.owner, self._reader.beside == "labels")

    def _check_specification(self, specification: BatchLike, complete: bool = True) -> None:
        """Refuses batches of another structure or shape, where these are known."""
        x = self._reader.read(specification, complete).x
        if isinstance(x, tf.TensorSpec) and None not in (x.shape.rank, *x.shape[1:]):
            check_shape("x", x.shape, self._objective.event.shape)
