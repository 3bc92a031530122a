"""What a model is trained for: what it reads of a batch, its losses and its metrics."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TypeAlias

import keras
import tensorflow as tf

from tf_iresnet.models.training.events import Event
from tf_iresnet.models.training.inputs import Batch, Reader
from tf_iresnet.models.training.replicated import all_finite
from tf_iresnet.models.training.weights import are_weights, as_row, check_sample_weight
from tf_iresnet.typing import BatchLike, Inputs

UpdateMetrics: TypeAlias = Callable[[keras.metrics.Metric], None]


class Objective(abc.ABC):
    """The mean of a loss over examples, each with a weight.

    Args:
      owner: whose it is, such as "the flow f", in messages.
      event: what one example is.
      beside: what a batch holds beside x: "context", "labels", or None for nothing.
    """

    def __init__(self, owner: str, event: Event, beside: str | None) -> None:
        self.reader = Reader(owner, beside)
        self.event = event

    @property
    def conditional(self) -> bool:
        """Whether the model is called with what a batch holds beside x."""
        return self.reader.beside == "context"

    def inputs_of(self, data: BatchLike) -> Inputs:
        """Returns the parts of a batch that the model is called with, by keyword.

        Raises:
          ValueError: if the batch has another structure; the message says how to change it.
        """
        x, y, _ = self.reader.read(data, complete=self.conditional)
        return {"x": x, "context": y} if self.conditional else {"x": x}

    def read(self, data: BatchLike) -> Batch:
        """Takes a batch apart for a step, and checks the shapes of its parts.

        Raises:
          ValueError: if the structure or a shape is another one.
        """
        x, y, weights = self.reader.read(data)
        x = self.event.convert(x)
        return Batch(x, y, None if weights is None else as_row(weights, self.event.dtype))

    def check_examples(self, batch: Batch, densities: bool = True) -> None:
        """Refuses arrays that are no data for this model, before any work.

        Args:
          batch: all of the data.
          densities: whether likelihoods are asked for, where the model has them.

        Raises:
          ValueError: if they are none.
        """
        self.event.check_array(batch.x, densities)
        if batch.weights is not None:
            check_sample_weight(batch.weights)

    def findings(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns which of `skipping.FINDINGS` hold for this replica's part of a batch."""
        found = {}
        beside = [tf.convert_to_tensor(batch.y)] if self.conditional else []
        floats = [part for part in (batch.x, *beside) if part.dtype.is_floating]
        if floats:
            found["data"] = ~all_finite(floats)
        if batch.weights is not None:
            found["weights"] = ~are_weights(batch.weights)
        if batch.y is not None and self.reader.beside is None:
            found["placeholder"] = tf.reduce_any(tf.convert_to_tensor(batch.y) != 0)
        return found | self.event.findings(batch.x)

    @abc.abstractmethod
    def loss(
        self, batch: Batch, step: tf.Tensor | int, first: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, UpdateMetrics]:
        """Computes the sum of a batch's losses, each times the weight of its example.

        Args:
          batch: what `read` makes of this replica's part.
          step: the number of training steps so far; -1 in evaluation.
          first: the global index of the first example, an int32 scalar.
          training: whether this is a training step.

        Returns:
          The sum over this replica's examples, and a function that updates the metrics; its
          argument is the mean that is shown as ``loss``.
        """

    @property
    def metrics(self) -> list[keras.metrics.Metric] | None:
        """The metrics beside the loss; None for those that the model is compiled with."""
        return None

    @property
    def forward_state(self) -> list[keras.Variable]:
        """Variables that the forward pass of a training step assigns."""
        return []

    def check_compiled(self, options: Mapping[str, object]) -> None:
        """Refuses losses and metrics given to `compile`, where the objective has its own.

        Raises:
          ValueError: if there are any.
        """
        for name, value in options.items():
            if value is not None and value != []:
                raise ValueError(
                    f"{self.reader.owner} has its own loss and metrics, got {name}={value!r}; "
                    f"leave {name} out (evaluate() gives bits per dimension)."
                )
