"""Bits/dim and errors of the model as it is, example by example and in the mean."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from tf_iresnet.log_det import LogDetEstimator
from training.data import views
from training.measures.finished import Finished
from training.measures.inputs import (
    batches_with_index,
    input_specs,
    inputs_with_index,
    probe_seed,
)
from training.typing import Results

#: Bits/dim [batch] of a seed, x [batch, ...] and the contexts, if there are any.
BitsPerDim: TypeAlias = Callable[..., tf.Tensor]


def measure(finished: Finished, split: str, limit: int | None) -> Results:
    """Measures bits/dim or the error rate, of a hybrid both, of the model as it is.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.

    Returns:
      The mean and what it was measured with.

    Raises:
      DataError: if there is no such split, or it has fewer examples.
    """
    bits_per_dim = bits_function(finished) if finished.is_flow else None
    return summary(finished, of_examples(finished, split, limit, bits_per_dim))


def of_examples(
    finished: Finished, split: str, limit: int | None, bits_per_dim: BitsPerDim | None
) -> dict[str, np.ndarray]:
    """Measures each example.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.
      bits_per_dim: of `bits_function`; None where the model has no density.

    Returns:
      "bits" and "mistakes", as the model has them: bits/dim, and whether the label is wrong,
      float64 [examples].
    """
    found = {}
    if bits_per_dim is not None:
        found["bits"] = _bits(finished, split, limit, bits_per_dim)
    if finished.is_classifier:
        found["mistakes"] = mistakes_of(finished, split, limit)
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def summary(finished: Finished, measured: dict[str, np.ndarray]) -> Results:
    """Sums up what was measured of the examples.

    Args:
      finished: the run.
      measured: the result of `of_examples`.

    Returns:
      Means, with standard errors, and what they were measured with.
    """
    results: Results = {}
    if "bits" in measured:
        results |= _density(finished, measured["bits"])
    if "mistakes" in measured:
        mistakes = measured["mistakes"]
        results |= {"error_percent": 100 * float(mistakes.mean()), "images": len(mistakes)}
    return results


def bits_function(finished: Finished, log_det: LogDetEstimator | None = None) -> BitsPerDim:
    """Compiles bits/dim per example as a function of a seed, x and the context, if there is one.

    Args:
      finished: the run.
      log_det: replaces the estimator of the model's evaluation.

    Returns:
      The compiled function.
    """
    return tf.function(
        lambda seed, x, *context: finished.model.bits_per_dim(x, seed, log_det, *context),
        input_signature=[tf.TensorSpec([3], tf.int32), *input_specs(finished)],
        autograph=False,
    )


def _bits(
    finished: Finished, split: str, limit: int | None, bits_per_dim: BitsPerDim
) -> list[np.ndarray]:
    seed = finished.experiment.seed
    return [
        bits_per_dim(probe_seed(seed, "evaluation/probes", first), *inputs).numpy()
        for first, inputs in inputs_with_index(finished, split, limit)
    ]


def _density(finished: Finished, bits: np.ndarray) -> Results:
    measured_by = finished.experiment.model.measured_by  # type: ignore[union-attr]
    results = {
        "bits_per_dim": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None,
        "images": len(bits),
        "exact_terms": measured_by.get("exact_terms"),
        "log_det": measured_by,
    }
    if not finished.dataset.spec.is_image:
        results["log_prob"] = float(-bits.mean() * np.log(2) * finished.dataset.spec.dims)
    return results


def mistakes_of(
    finished: Finished, split: str, limit: int | None, shown: tuple[str, ...] = ()
) -> list[np.ndarray]:
    """Tells which labels are wrong.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.
      shown: augmentations to whose views the logits belong; their sum decides.

    Returns:
      Booleans, batch by batch.
    """
    logits = tf.function(
        lambda x: sum(finished.model(view, training=False) for view in views(x, shown)),
        input_signature=input_specs(finished),
        autograph=False,
    )
    return [
        np.argmax(logits(x).numpy(), axis=-1) != y.numpy()
        for _, (x, y) in batches_with_index(finished, split, limit)
    ]
