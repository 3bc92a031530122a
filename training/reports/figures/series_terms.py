"""Figure 4: bias and spread of the log-determinant's estimators by the number of terms."""

import functools

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_iresnet.certificate import residual_blocks
from tf_iresnet.log_det import Exact, LogDetEstimator, PowerSeries, RussianRoulette
from training.errors import RunError
from training.measures.finished import Finished
from training.measures.inputs import batches_with_index, probe_seed
from training.reports.figures.jacobians import DenseTraces
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import BLUE, PAGE, RED, letter, new_figure
from training.typing import Numbers

_IMAGES, _DRAWS, _COPIES = 4, 40, 32
_TERMS = (1, 2, 3, 4, 5, 7, 10, 15)
_EXACT_TERMS = (0, 1, 2, 4, 8)  # of the roulettes
_PROBABILITY = 0.5  # of their geometric distribution, as in training


def draw(request: Request) -> Drawing:
    """Draws both estimators of a trained flow against its exact log-determinant.

    Args:
      request: its run is that of a flow; its limit is how many test examples are used.

    Returns:
      The figure. The numbers, in nats: "exact" of each example; for each kind of estimator and
      number of terms the bias over examples, its standard error over draws, and the standard
      deviation of one estimate of one example; "bias_by_traces" is the truncated series' bias
      without noise, from the traces of powers of dense Jacobians.

    Raises:
      RunError: if the run is of another kind, or of a flow without residual blocks.
    """
    finished = request.flow()
    if not any(residual_blocks(finished.model.flow)):
        raise RunError(
            f"{finished.experiment.name} has no residual blocks, whose series figure 4 shows; "
            "give the run of another flow"
        )
    count = request.count(_IMAGES, finished.dataset.spec.split_sizes["test"])
    _, (x, *_) = next(batches_with_index(finished, "test", count, count))
    flow, seed = finished.model.flow, request.seed
    dense = DenseTraces(max(_TERMS), count)
    rest = flow.forward_and_log_det(x, _key(seed, "exact", 0), dense)[1].numpy().astype(np.float64)
    exact = rest + dense.exact
    check = flow.forward_and_log_det(x, _key(seed, "exact", 0), Exact())[1].numpy()
    measured = functools.partial(_measured, finished, x, exact, seed=seed)
    series = [measured(PowerSeries(terms=n)) for n in _TERMS]
    roulettes = [measured(RussianRoulette(m, probability=_PROBABILITY)) for m in _EXACT_TERMS]
    numbers = {
        "examples": count,
        "draws": _DRAWS,
        "copies": _COPIES,
        "dims": finished.dataset.spec.dims,
        "exact": exact.tolist(),
        "difference_of_exact_and_slogdet": float(np.abs(check - exact).max()),
        "largest_spectral_radius": float(dense.radius),
        "terms": list(_TERMS),
        "bias_by_traces": [float((dense.partial[n - 1] - dense.exact).mean()) for n in _TERMS],
        "power_series": series,
        "roulette_probability": _PROBABILITY,
        "roulette_exact_terms": list(_EXACT_TERMS),
        "roulette_expected_terms": [m + 1 / _PROBABILITY for m in _EXACT_TERMS],
        "russian_roulette": roulettes,
    }
    return Drawing(_figure(numbers), _caption(finished, numbers), numbers)


def _key(seed: int, purpose: str, number: int) -> tf.Tensor:
    # The last word counts examples: seeds that differ in it alone share probes.
    return tf.constant(probe_seed(seed, f"figure 4/{purpose}/{number}", 0))


def _measured(
    finished: Finished, x: tf.Tensor, exact: np.ndarray, estimator: LogDetEstimator, seed: int
) -> dict[str, float]:
    copies = tf.tile(x, [_COPIES] + [1] * (x.shape.rank - 1))
    value = tf.function(
        lambda key: finished.model.flow.forward_and_log_det(copies, key, estimator)[1],
        input_signature=[tf.TensorSpec([3], tf.int32)],
        autograph=False,
    )
    keys = [_key(seed, repr(estimator), number) for number in range(_DRAWS)]
    errors = np.array([value(key).numpy().reshape(_COPIES, -1) - exact for key in keys])
    # What is evaluated at once shares the roulette's number of terms: draws are independent.
    means = errors.mean(axis=(1, 2))
    return {
        "bias": float(means.mean()),
        "standard_error": float(means.std(ddof=1) / np.sqrt(_DRAWS)),
        "standard_deviation": float(np.sqrt(errors.var(axis=(0, 1), ddof=1).mean())),
    }


def _figure(numbers: Numbers) -> Figure:
    figure = new_figure(PAGE, 2.4)
    left, right = figure.subplots(1, 2)
    kinds = (
        ("truncated series", "power_series", numbers["terms"], RED, "s"),
        ("Russian roulette", "russian_roulette", numbers["roulette_expected_terms"], BLUE, "o"),
    )
    left.axhline(0, color="0.6", linewidth=0.6)
    left.plot(numbers["terms"], numbers["bias_by_traces"], color=RED, linewidth=0.8, zorder=1)
    for label, name, terms, colour, marker in kinds:
        values = {k: [entry[k] for entry in numbers[name]] for k in numbers[name][0]}
        reach = [1.96 * error for error in values["standard_error"]]
        left.errorbar(
            terms, values["bias"], reach, fmt=marker, color=colour, label=label, capsize=2
        )
        right.plot(terms, values["standard_deviation"], f"{marker}-", color=colour, label=label)
    errors = [entry["standard_error"] for entry in numbers["power_series"]]
    left.set_yscale("symlog", linthresh=4 * max(errors), linscale=1.5)
    left.set(xlabel="terms (roulette: expected)", ylabel="bias of ln|det| (nats)")
    right.set(xlabel="terms (roulette: expected)", ylabel="standard deviation (nats)")
    right.set_ylim(0, 1.1 * right.get_ylim()[1])
    left.legend()
    letter(left, 0, "bias, with 95 % intervals")
    letter(right, 1, "spread of one estimate")
    return figure


def _caption(finished: Finished, numbers: Numbers) -> str:
    return (
        f"Estimates of the log-determinant of {finished.experiment.name} against its exact value "
        f"by dense Jacobians, on {numbers['examples']} test examples of {numbers['dims']} "
        f"dimensions, {numbers['draws'] * numbers['copies']} estimates of each. The line is the "
        "truncated series' bias from traces of powers of the Jacobians, without noise. The "
        "roulette draws its terms beyond the certain ones from "
        f"geometric({numbers['roulette_probability']:g}), whose variance is finite where a block's "
        f"spectral radius is below {np.sqrt(1 - numbers['roulette_probability']):.3f}; the largest "
        f"one is {numbers['largest_spectral_radius']:.3f}."
    )
