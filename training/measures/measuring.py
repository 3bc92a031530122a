"""Bits/dim and errors by the weights in memory, example by example and in the mean."""

import numpy as np
import tensorflow as tf

from training.data import views
from training.experiments.settings import AnyFlow
from training.measures.finished import Finished
from training.measures.inputs import batches_with_index, inputs_with_index, probe_seed
from training.typing import Results


def measure(finished: Finished, split: str, limit: int | None) -> Results:
    """Measures bits/dim or the error rate, of a hybrid both, by the weights in memory.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.

    Returns:
      The mean and what it was measured with.

    Raises:
      DataError: if there is no such split, or it has fewer examples.
    """
    return summarise(finished, measure_examples(finished, split, limit))


def measure_examples(finished: Finished, split: str, limit: int | None) -> dict[str, np.ndarray]:
    """Measures each example; arguments as in `measure`.

    Returns:
      "bits" and "mistakes", as the model has them: bits/dim, and whether the label is wrong,
      float64 [examples].
    """
    found = {}
    if finished.is_flow:
        found["bits"] = bits_of_split(finished, split, limit, "evaluation/probes")
    if finished.is_classifier:
        found["mistakes"] = find_mistakes(finished, split, limit).astype(np.float64)
    return found


def summarise(finished: Finished, measured: dict[str, np.ndarray]) -> Results:
    """Takes the means of what `measure_examples` found.

    Args:
      finished: the run.
      measured: its examples.

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


def bits_of_split(finished: Finished, split: str, limit: int | None, purpose: str) -> np.ndarray:
    """Measures the bits/dim of each example of a split.

    Args:
      finished: the run of a flow or a hybrid.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.
      purpose: what the probes are drawn for; two purposes never share numbers.

    Returns:
      Float64 [examples].
    """
    seed = finished.experiment.seed
    found = [
        finished.bits_per_dim(probe_seed(seed, purpose, first), *inputs).numpy()
        for first, inputs in inputs_with_index(finished, split, limit)
    ]
    return np.concatenate(found).astype(np.float64)


def _density(finished: Finished, bits: np.ndarray) -> Results:
    settings = finished.experiment.model
    assert isinstance(settings, AnyFlow), "the model has no density"
    results: Results = {
        "bits_per_dim": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None,
        "images": len(bits),
        "exact_terms": settings.measured_by.get("exact_terms"),
        "log_det": settings.measured_by,
    }
    if not finished.dataset.spec.is_image:
        results["log_prob"] = float(-bits.mean() * np.log(2) * finished.dataset.spec.dims)
    return results


def find_mistakes(
    finished: Finished, split: str, limit: int | None, shown: tuple[str, ...] = ()
) -> np.ndarray:
    """Finds the examples whose label the model gets wrong.

    Args:
      finished: the run of a classifier or a hybrid.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.
      shown: augmentations to whose views the logits belong; their sum decides.

    Returns:
      Booleans, [examples].
    """
    logits = tf.function(
        lambda x: sum(finished.model(view, training=False) for view in views(x, shown)),
        input_signature=finished.input_specs,
        autograph=False,
    )
    found = [
        np.argmax(logits(x).numpy(), axis=-1) != y.numpy()
        for _, (x, y) in batches_with_index(finished, split, limit)
    ]
    return np.concatenate(found)
