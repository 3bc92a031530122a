"""Results on held-out examples, by averaged weights."""

import math

import numpy as np

from tf_iresnet import certify
from tf_iresnet.certificate import Certificate
from tf_iresnet.certificate.variance import doubt_of_variance
from training.console import warn
from training.loop.models import parameter_count
from training.measures.comparing import PER_EXAMPLE, compare, read_values
from training.measures.finished import Finished
from training.measures.inputs import inputs_with_index, probe_seed
from training.measures.measuring import measure_examples, summarise
from training.measures.views import check_views, measure_by_views
from training.runs.machine import cores, cpu_seconds, processor, versions
from training.runs.run import Run
from training.typing import Results

_SPREAD = {"images": 64, "draws": 8}  # of the estimator's standard deviation


def evaluate(
    finished: Finished,
    *,
    split: str = "test",
    limit: int | None = None,
    against: Run | None = None,
    by_views: bool = False,
) -> Results:
    """Measures bits/dim or the error rate, of a hybrid both, and writes `metrics.json`.

    The results on the whole test set stay there when fewer examples are evaluated. The values of
    single examples stay in the run's folder, so that two runs can be compared example by example.

    Each image has one dequantisation and one set of probes, both functions of the run's seed and
    the image's index. A roulette draws the number of terms for each image.

    Args:
      finished: the run.
      split: "train", "validation" or "test".
      limit: how many examples to use, from the first on; None for all.
      against: another run, evaluated on the same examples. Their mean difference, of this run minus
        the other, goes to "against", with the standard error of paired differences. Of hybrids it
        is bits/dim that is compared.
      by_views: whether to measure also the error rate of the mean of the logits of several views of
        each image, those of `training.data.views` that fit the training. It goes to "views".

    Returns:
      The results, with the others in `metrics.json`.

    Raises:
      DataError: if there is no such split, or it has fewer examples.
      RunError: if the other run was not evaluated on these examples, or there are no views.
    """
    if by_views:
        check_views(finished)
    experiment, before = finished.experiment, cpu_seconds()
    other = None if against is None else read_values(against, finished, split)
    measured = measure_examples(finished, split, limit)
    results = summarise(finished, measured)
    singles = next(iter(measured.values()))
    if against is not None and other is not None:
        results["against"] = compare(against, singles, other)
    if by_views:
        results["views"] = measure_by_views(finished, split, limit)
    certificate = _certificate(finished)
    if finished.is_flow and finished.model.eval_log_det.stochastic:
        results["estimator"] = _spread(finished, split, len(singles), certificate)
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
    images = finished.run.folder / PER_EXAMPLE
    return finished.add_metrics(
        values, {images: lambda file: np.savez(file, values=singles, split=split)}
    )


def _is_of(results: Results, split: str, images: int) -> bool:
    return (results.get("split"), results.get("images")) == (split, images)


def _certificate(finished: Finished) -> Certificate | None:
    """Returns what is proven of the model; None where a part has no known bound."""
    try:
        return certify(finished.model)
    except ValueError:
        return None


def _certified(certificate: Certificate | None) -> float | None:
    """Returns the proven bound of all blocks, if there is a finite one."""
    if certificate is None or not math.isfinite(certificate.contraction):
        return None
    return certificate.contraction


def _spread(
    finished: Finished, split: str, images: int, certificate: Certificate | None
) -> Results:
    """Measures the noise of the log-determinants' draw in the values of single images."""
    images, model = min(images, _SPREAD["images"]), finished.model
    _, inputs = next(inputs_with_index(finished, split, images, images))
    values = [
        finished.bits_per_dim(
            probe_seed(finished.experiment.seed, f"evaluation/spread/{draw}", 0), *inputs
        )
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
