"""The evaluation's estimate of bits/dim against its exact value."""

import numpy as np

from tf_iresnet.log_det import Exact
from training.console import say
from training.errors import RunError
from training.measures.finished import Finished
from training.measures.inputs import inputs_with_index, probe_seed
from training.typing import Results

_BYTES = 64 * 2**20  # about what the dense Jacobians of a batch may take


def exact_check(finished: Finished, *, images: int = 16, draws: int = 100) -> Results:
    """Compares the estimate with full Jacobians on the same dequantised test images.

    A draw is one evaluation of all the images. Within it they share the roulette's number of terms,
    so that draws are independent and images are not: the difference's standard error is over draws.

    Args:
      finished: the run of a flow.
      images: how many test images, from the first on.
      draws: how many independent estimates of each.

    Returns:
      What was added to `metrics.json` as "exact_check".

    Raises:
      RunError: if the model has no density, or an argument is out of range.
      DataError: if the test set has fewer images.
    """
    finished.check_density()
    for option, value, least in (("--images", images, 1), ("--draws", draws, 2)):
        if value < least:
            raise RunError(f"{option} {value} is too small; give at least {least}")
    seed, dims = finished.experiment.seed, finished.dataset.spec.dims
    few = max(1, _BYTES // (8 * dims * dims))
    exactly = finished.bits_per_dim_by(Exact())
    exact = np.concatenate(
        [
            exactly(probe_seed(seed, "exact", first), *inputs).numpy().astype(np.float64)
            for first, inputs in inputs_with_index(finished, "test", images, few)
        ]
    )
    say(f"exact: {exact.mean():.5f} bits/dim on {images} images; {draws} estimates follow")
    batches = list(inputs_with_index(finished, "test", images))
    estimates = np.array(
        [
            np.concatenate(
                [
                    finished.bits_per_dim(probe_seed(seed, f"draw {n}", first), *inputs).numpy()
                    for first, inputs in batches
                ]
            )
            for n in range(draws)
        ],
        np.float64,
    )
    paired = (estimates - exact).mean(axis=1)
    report = {
        "images": images,
        "draws": draws,
        "exact_bits_per_dim": float(exact.mean()),
        "estimated_bits_per_dim": float(estimates.mean()),
        "difference": float(paired.mean()),
        "standard_error": float(paired.std(ddof=1) / np.sqrt(draws)),
        "spread_of_one_image": float(np.sqrt(estimates.var(axis=0, ddof=1).mean())),
    }
    finished.add_metrics({"exact_check": report})
    return report
