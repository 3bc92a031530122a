"""Skipped training steps: graphs count them, and eager code ends training after too many."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_iresnet.models.training.pixels import AS_INTEGERS, MANY


class SkippedStepsError(FloatingPointError):
    """So many training steps in a row were skipped that nothing is learned."""


class Finding(NamedTuple):
    """What may be wrong with a step, and what to do about it."""

    what: str
    advice: str
    refused: bool = False  # a mistake of the caller's, which no further step mends


# In the order in which they explain a skipped step.
FINDINGS = {
    "weights": Finding(
        "sample_weight must hold finite numbers of at least 0",
        "leave those examples out, or give them the weight 0",
        refused=True,
    ),
    "placeholder": Finding(
        "the model reads nothing beside x: in (x, y, sample_weight) its y must be zeros, which "
        "stand for no y",
        "give data.map(lambda x, y, w: (x, 0 * w, w))",
        refused=True,
    ),
    "outside": Finding(
        "x must lie in [0, levels), the pixels and their dequantisation noise",
        "give the model as many levels as the pixels have",
        refused=True,
    ),
    "whole": Finding(
        "x holds whole numbers as floats, to which no dequantisation noise was added",
        AS_INTEGERS,
        refused=True,
    ),
    "scaled": Finding(
        "x lies in [0, 1], a sliver of [0, levels): images scaled to [0, 1]",
        AS_INTEGERS,
        refused=True,
    ),
    "data": Finding("the data holds NaN or infinite values", "remove those examples"),
    "weightless": Finding(
        "the weights of the batch sum to zero", "give larger batches, or some positive weights"
    ),
    "loss": Finding("the loss is not finite", "lower the learning rate, or clip gradients"),
    "gradient": Finding("the gradient is not finite", "lower the learning rate, or clip gradients"),
}


class StepWatch:
    """Counts skipped steps, and remembers why they were skipped; equal on all replicas.

    The variables are no weights of the model: they record what happens in training, and belong to
    its checkpoints.
    """

    def __init__(self) -> None:
        def zeros(count: int) -> tf.Variable:
            return tf.Variable([0] * count, dtype=tf.int64, trainable=False)

        self.counters = zeros(2)  # steps skipped in all, and in a row
        self.since_reset = zeros(2)  # steps skipped, and examples evaluated
        self._narrow = zeros(1)  # examples, all in [0, 1]; far below zero once one was not
        # The longest row, the last skip's finding and a refusal; findings are numbered from one.
        self._news = zeros(3)

    def begin(self) -> None:
        """Starts to observe the range of the data, which each `fit` may change."""
        self._narrow.assign([0])

    def note_step(self, skipped: tf.Tensor, found: dict[str, tf.Tensor]) -> None:
        """Counts a training step.

        Args:
          skipped: whether it was skipped, a boolean.
          found: which of `FINDINGS` hold, booleans; those left out do not hold.
        """
        one = tf.cast(skipped, tf.int64)
        counters = (self.counters + 1) * one + self.counters * [1, 0] * (1 - one)
        self.counters.assign(counters)
        self.since_reset.assign_add(tf.stack([one, 0]))
        longest, _, _ = tf.unstack(self._news)
        reason = tf.where(skipped, _first(found, False), self._news[1])
        self._tell(tf.maximum(longest, counters[1]), reason, found)

    def note_width(self, wide: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        """Notes whether a value of the training data lies above 1.

        Returns:
          Whether so many examples had no value above 1 that they must be scaled to [0, 1].
        """
        others = tf.constant([-(2**62)], tf.int64)
        narrow = tf.where(wide, others, self._narrow + tf.cast(examples, tf.int64))
        self._narrow.assign(narrow)
        return narrow[0] >= MANY

    def note_evaluation(self, examples: tf.Tensor, found: dict[str, tf.Tensor]) -> None:
        """Counts the examples of an evaluation step on all replicas."""
        self.since_reset.assign_add(tf.stack([0, tf.cast(examples, tf.int64)]))
        self._tell(self._news[0], self._news[1], found)

    def _tell(self, longest: tf.Tensor, reason: tf.Tensor, found: dict[str, tf.Tensor]) -> None:
        refusal = tf.maximum(self._news[2], _first(found, True))
        self._news.assign(tf.stack([longest, reason, refusal]))

    def raise_findings(self, most: int | None) -> None:
        """Raises an error for what steps have found since the last call; for eager code.

        Args:
          most: how many skipped steps in a row end training; None for any number.

        Raises:
          ValueError: if a step refused its data.
          SkippedStepsError: if ``most`` steps in a row were skipped.
        """
        longest, reason, refusal = (int(n) for n in tf.convert_to_tensor(self._news).numpy())
        if refusal:
            self._forget()
            finding = list(FINDINGS.values())[refusal - 1]
            raise ValueError(f"{finding.what}; {finding.advice}.")
        if most is not None and longest >= most:
            self._forget()
            finding = list(FINDINGS.values())[reason - 1]
            raise SkippedStepsError(
                f"{longest} training steps in a row were skipped, at the last of which "
                f"{finding.what}; the weights are those before them: {finding.advice}."
            )

    def _forget(self) -> None:
        """Starts a new row: training may go on once its cause is mended."""
        self._news.assign([0, 0, 0])
        self.counters.assign(tf.convert_to_tensor(self.counters) * [1, 0])

    def reset(self) -> None:
        """Starts to count anew, as metrics do at the start of an epoch."""
        self.since_reset.assign([0, 0])


def is_refused(found: dict[str, tf.Tensor]) -> tf.Tensor:
    """Says whether a finding is one that no further step mends."""
    return _first(found, True) > 0


def _first(found: dict[str, tf.Tensor], refused: bool) -> tf.Tensor:
    """Returns the number, from one, of the first finding that holds; 0 for none."""
    number = tf.zeros([], tf.int64)
    for place, (name, finding) in reversed(list(enumerate(FINDINGS.items(), 1))):
        if name in found and (finding.refused or not refused):
            number = tf.where(found[name], tf.constant(place, tf.int64), number)
    return number
