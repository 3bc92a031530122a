"""Results on held-out examples, by averaged weights."""

import math
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_iresnet import certify
from tf_iresnet.certificate import Certificate
from tf_iresnet.certificate.variance import doubt_of_variance
from tf_iresnet.log_det import LogDetEstimator
from training.console import warn
from training.data import DataError, eval_batches, views
from training.data.randomness import stream_key
from training.errors import RunError
from training.loop.models import parameter_count
from training.measures.finished import Finished
from training.runs.machine import cores, cpu_seconds, processor, versions
from training.runs.run import Run

_IMAGES = "per_image.npz"  # the file of the single values
_SPREAD = {"images": 64, "draws": 8}  # of the estimator's standard deviation


def evaluate(
    finished: Finished,
    *,
    split: str = "test",
    limit: int | None = None,
    against: Run | None = None,
    by_views: bool = False,
) -> dict[str, Any]:
    """Measures bits/dim or the error rate, of a hybrid both, and writes `metrics.json`.

    A result on the whole test set is not replaced there by one on fewer examples. The values of
    the single examples stay in the run's folder, so that two runs can be compared example by
    example.

    One dequantisation per image and one set of probes per image, both functions of the run's
    seed and the image's index. A roulette draws the number of terms for each image.

    Args:
        finished: the run.
        split: "train", "validation" or "test".
        limit: how many examples to use, from the first on; None for all.
        against: another run, evaluated on the same examples: their mean difference, of this run
            minus the other, goes to "against", with the standard error of paired differences.
            Of hybrids it is bits/dim that is compared.
        by_views: measure also the error rate of the mean of the logits of several views of each
            image, those of `training.data.views` that fit the training: it goes to "views".

    Returns:
        The results, with the others in `metrics.json`.

    Raises:
        DataError: there is no such split, or it has fewer examples.
        RunError: the other run was not evaluated on these examples, or there are no views.
    """
    if by_views:
        _check_views(finished)
    experiment, before = finished.experiment, cpu_seconds()
    other = None if against is None else _single_values(against, finished, split)
    bits_per_dim = bits_function(finished) if finished.is_flow else None
    measured = _single(finished, split, limit, bits_per_dim)
    results = _summary(finished, measured)
    singles = next(iter(measured.values()))
    if against is not None and other is not None:
        results["against"] = _paired(against, singles, other)
    if by_views:
        results["views"] = _by_views(finished, split, limit)
    certificate = _certificate(finished)
    if finished.is_flow and finished.model.eval_log_det.stochastic:
        results["estimator"] = _spread(finished, split, len(singles), certificate, bits_per_dim)
    history = finished.run.history()
    spent = [record["cpu_seconds"] for record in history if record["step"] == finished.step]
    values = {
        "experiment": experiment.name,
        "command": finished.run.command(),
        "seed": experiment.seed,
        "split": split,
        **results,
        "parameters": parameter_count(finished.model),
        "certified_lipschitz": _certified(certificate),
        "cpu_seconds": spent[-1] if spent else None,
        "evaluation_cpu_seconds": round(cpu_seconds() - before, 1),
        "cores": cores(),
        "processor": processor(),
        "versions": versions(),
    }
    held, whole = finished.metrics(), finished.dataset.spec.split_sizes["test"]
    if _is_of(held, "test", whole) and not _is_of(values, "test", whole):
        return {**held, **values}
    images = finished.run.folder / _IMAGES
    return finished.add_metrics(
        values, {images: lambda file: np.savez(file, values=singles, split=split)}
    )


def _single_values(run: Run, finished: Finished, split: str) -> np.ndarray:
    """The values that another run's evaluation on the same examples left."""
    ours, theirs = finished.experiment, run.experiment()
    for key in ("task", "dataset", "seed"):
        if getattr(ours, key) != getattr(theirs, key):
            raise RunError(
                f"{str(run.folder)!r} cannot be compared: its {key} is {getattr(theirs, key)!r}, "
                f"here it is {getattr(ours, key)!r}"
            )
    try:
        with np.load(run.folder / _IMAGES) as held:
            if str(held["split"]) == split:
                return held["values"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # none, or a damaged one
        pass
    raise RunError(
        f"{str(run.folder)!r} holds no values of single examples of split {split!r}; run "
        "`python -m training evaluate` on it first"
    )


def _paired(run: Run, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    if len(ours) < 2 or len(ours) != len(theirs):
        raise RunError(
            f"{str(run.folder)!r} was evaluated on {len(theirs)} examples, this run on "
            f"{len(ours)}; evaluate both with the same --limit, of at least 2"
        )
    difference = ours - theirs
    return {
        "experiment": run.experiment().name,
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "images": len(difference),
    }


def _is_of(results: dict[str, Any], split: str, images: int) -> bool:
    return (results.get("split"), results.get("images")) == (split, images)


def measure(finished: Finished, split: str, limit: int | None) -> dict[str, Any]:
    """Measures bits/dim or the error rate, of a hybrid both, of the model as it is.

    Args:
        finished: the run.
        split: "train", "validation" or "test".
        limit: how many examples to use, from the first on; None for all.

    Returns:
        The mean and what it was measured with.

    Raises:
        DataError: there is no such split, or it has fewer examples.
    """
    bits_per_dim = bits_function(finished) if finished.is_flow else None
    return _summary(finished, _single(finished, split, limit, bits_per_dim))


def _single(
    finished: Finished, split: str, limit: int | None, bits_per_dim: Any
) -> dict[str, np.ndarray]:
    """Bits/dim and whether the label is wrong, as the model has them, of each example."""
    found = {}
    if finished.is_flow:
        found["bits"] = _bits(finished, split, limit, bits_per_dim)
    if finished.is_classifier:
        found["mistakes"] = _mistakes(finished, split, limit)
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def _summary(finished: Finished, measured: dict[str, np.ndarray]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "bits" in measured:
        results |= _density(finished, measured["bits"])
    if "mistakes" in measured:
        mistakes = measured["mistakes"]
        results |= {"error_percent": 100 * float(mistakes.mean()), "images": len(mistakes)}
    return results


def batches_with_index(
    finished: Finished, split: str, limit: int | None, batch_size: int | None = None
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Goes through a split in order.

    Args:
        finished: the run.
        split: "train", "validation" or "test".
        limit: how many examples to use; None for all.
        batch_size: the size of a batch; None takes the experiment's.

    Yields:
        The index of a batch's first example, and a tuple of what `eval_batches` gives: x, and
        where there are any, labels or contexts.

    Raises:
        DataError: there is no such split, or it has fewer examples.
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
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Goes through what the model reads of a split; arguments as in `batches_with_index`.

    Args:
        finished: the run.
        split: "train", "validation" or "test".
        limit: how many examples to use; None for all.
        batch_size: the size of a batch; None takes the experiment's.

    Yields:
        The index of a batch's first example, and a tuple as `input_specs` describes it.
    """
    count = len(input_specs(finished))
    for first, parts in batches_with_index(finished, split, limit, batch_size):
        yield first, parts[:count]


def probe_seed(seed: int, purpose: str, first: int) -> np.ndarray:
    """Derives the seed of a batch's probes.

    Args:
        seed: the run's seed.
        purpose: what they are for; two purposes never share numbers.
        first: the index of the batch's first example.

    Returns:
        Three words of int32, as the library's models take them.
    """
    key = np.array([stream_key(seed, purpose)], np.uint64).view(np.int32)
    return np.append(key, np.int32(first)).astype(np.int32)


def bits_function(finished: Finished, log_det: LogDetEstimator | None = None) -> Any:
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


def input_specs(finished: Finished) -> list[tf.TensorSpec]:
    """Describes what the model reads.

    Args:
        finished: the run.

    Returns:
        The specifications of x and, for a conditional flow, of the context.
    """
    shapes = [finished.dataset.spec.event_shape]
    if finished.is_conditional:
        shapes.append((finished.dataset.spec.classes,))
    return [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]


def _certificate(finished: Finished) -> Certificate | None:
    """What is proven of the model, or None where a part has no known bound."""
    try:
        return certify(finished.model)
    except ValueError:
        return None


def _certified(certificate: Certificate | None) -> float | None:
    """The proven bound of all blocks, if there is a finite one."""
    if certificate is None or not math.isfinite(certificate.contraction):
        return None
    return certificate.contraction


def _spread(
    finished: Finished,
    split: str,
    images: int,
    certificate: Certificate | None,
    bits_per_dim: Any,
) -> dict[str, Any]:
    """The noise of one draw of the log-determinants in the values of single images."""
    images, model = min(images, _SPREAD["images"]), finished.model
    _, inputs = next(inputs_with_index(finished, split, images, images))
    values = [
        bits_per_dim(probe_seed(finished.experiment.seed, f"evaluation/spread/{draw}", 0), *inputs)
        for draw in range(_SPREAD["draws"])
    ]
    proven = not doubt_of_variance(model.flow, model.eval_log_det, certificate)
    if not proven:
        warn("nothing proves that the log-determinants' estimator has a finite variance")
    variances = np.var(np.stack(values).astype(np.float64), axis=0, ddof=1)
    return {
        "standard_deviation": float(np.sqrt(variances.mean())),
        "images": images,
        "draws": _SPREAD["draws"],
        "finite_variance": proven,
    }


def _bits(finished: Finished, split: str, limit: int | None, bits_per_dim: Any) -> list[np.ndarray]:
    seed = finished.experiment.seed
    return [
        bits_per_dim(probe_seed(seed, "evaluation/probes", first), *inputs).numpy()
        for first, inputs in inputs_with_index(finished, split, limit)
    ]


def _density(finished: Finished, bits: np.ndarray) -> dict[str, Any]:
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


def _mistakes(
    finished: Finished, split: str, limit: int | None, shown: tuple[str, ...] = ()
) -> list[np.ndarray]:
    """Whether the label is wrong, of the views that belong to the augmentations `shown`."""
    logits = tf.function(
        lambda x: sum(finished.model(view, training=False) for view in views(x, shown)),
        input_signature=input_specs(finished),
        autograph=False,
    )
    return [
        np.argmax(logits(x).numpy(), axis=-1) != y.numpy()
        for _, (x, y) in batches_with_index(finished, split, limit)
    ]


def _check_views(finished: Finished) -> None:
    experiment = finished.experiment
    if finished.is_flow or not {"crop", "flip"} & set(experiment.augment):
        raise RunError(
            f"--views is for classifiers that were trained on shifted or mirrored images; "
            f"{experiment.name} has task={experiment.task!r} and augment={experiment.augment}: "
            "leave it out"
        )


def _by_views(finished: Finished, split: str, limit: int | None) -> dict[str, Any]:
    augment = finished.experiment.augment
    _, (x, _) = next(batches_with_index(finished, split, 1))
    mistakes = np.concatenate(_mistakes(finished, split, limit, augment))
    return {
        "count": len(views(x, augment)),
        "split": split,
        "images": len(mistakes),
        "error_percent": 100 * float(mistakes.mean()),
    }
