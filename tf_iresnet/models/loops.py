"""Keras' loops, which refuse what they are given before they do any work."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.models.inputs import Batch, Reader, check_shape, is_array, no_y
from tf_iresnet.models.weights import check_class_weight, check_sample_weight


class CheckedLoops(keras.Model):
    """A model whose `fit`, `evaluate`, `predict` and steps on one batch honour or refuse arguments.

    Weights of examples count in every loop, as sum_i w_i l_i / sum_i w_i, in the metrics too.
    Sources of batches whose structure is not known before they are read are checked by the first
    step. A subclass defines `_reader`, and may add to `_check_examples`.
    """

    event_shape: tuple[int, ...]

    def _reader(self) -> Reader:
        raise NotImplementedError

    def _check_examples(self, batch: Batch, densities: bool = True) -> None:
        """Refuses arrays that are no data for this model; NaN is left to the steps.

        Args:
          batch: all of the data.
          densities: whether likelihoods are asked for, where the model has them.
        """
        check_shape("x", np.shape(batch.x), self.event_shape)
        if batch.weights is not None:
            check_sample_weight(batch.weights)

    def _read_specification(self, specification: Any, complete: bool = True) -> None:
        """Refuses batches of another structure or shape, where these are known."""
        x = self._reader().read(specification, complete).x
        if isinstance(x, tf.TensorSpec) and None not in (x.shape.rank, *x.shape[1:]):
            check_shape("x", x.shape, self.event_shape)

    def _taken(self, x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
        """Checks what a loop was given, and returns it as Keras' loops keep it."""
        reader = self._reader()
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            if y is None and sample_weight is None:  # else Keras says what is wrong
                self._read_specification(x.element_spec)
        elif x is not None and is_array(x):
            batch = reader.read((x, y, sample_weight))
            reader.check_placeholder(batch.y)
            self._check_examples(batch)
            if y is None and sample_weight is not None:
                y = no_y(len(x))
        return x, y, sample_weight

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on examples that may have weights.

        Args:
          x: as for `keras.Model.fit`: an array, or batches of x, (x, y) or (x, y, weights).
          y: what the model reads beside x.
          batch_size: of arrays.
          epochs: as for `keras.Model.fit`, as are all that are not named here.
          verbose: as said.
          callbacks: as said.
          validation_split: as said.
          validation_data: as x, or a tuple of arrays.
          shuffle: as said.
          class_weight: a weight for each class, where there are labels.
          sample_weight: a weight of at least 0 for each example, [n].
          **kwargs: of `keras.Model.fit`.

        Raises:
          ValueError: if an argument cannot be used; the message names it.
          SkippedStepsError: if ``max_skipped_steps`` steps in a row were skipped.
        """
        reader = self._reader()
        if class_weight is not None:
            check_class_weight(class_weight, reader.owner, reader.beside == "labels")
        x, y, sample_weight = self._taken(x, y, sample_weight)
        if isinstance(validation_data, (tuple, list)):
            validation_data = self._taken(*validation_data)
        elif validation_data is not None:
            self._taken(validation_data)
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not kwargs.get("_use_cached_eval_dataset"):  # else `fit` has checked it
            x, y, sample_weight = self._taken(x, y, sample_weight)
        return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        complete = self._reader().beside == "context"
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            self._read_specification(x.element_spec, complete)
        elif is_array(x):
            self._check_examples(self._reader().read(x, complete), densities=False)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        reader = self._reader()
        if class_weight is not None:
            check_class_weight(class_weight, reader.owner, reader.beside == "labels")
        x, y, sample_weight = self._taken(x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        x, y, sample_weight = self._taken(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict)
