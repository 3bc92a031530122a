"""The spread of log-determinant estimators over a whole trained flow, as one line of JSON.

    python -m benchmarks.estimators [--draws 100] [--images 64]

The flow is that of saved_models/mnist_flow, the images the first of MNIST's validation set where
`TFDS_DATA_DIR` says where that is, and else the flow's own samples. All have two exact terms and
geometric(0.5) more: four products with the Jacobian for each block on average.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.exported import exported_flow
from tf_iresnet import certify
from tf_iresnet.certificate import Certificate
from tf_iresnet.certificate.variance import InfiniteVarianceWarning, log_det_statistics
from tf_iresnet.log_det import RussianRoulette
from tf_iresnet.models import IResNetFlow

ESTIMATORS = {
    "gaussian": RussianRoulette(probe_distribution="gaussian"),
    "rademacher": RussianRoulette(),
    "control_variate": RussianRoulette(control_variate=True),
}


def images(model: IResNetFlow, count: int) -> tuple[tf.Tensor, str]:
    """Return dequantised images and where they come from."""
    if not os.environ.get("TFDS_DATA_DIR"):
        return model.sample(count, seed=0), "samples of the flow"
    from training.data import eval_batches, load_dataset

    batches = eval_batches(
        load_dataset("mnist"), "validation", count, seed=0, task="density", limit=count
    )
    return next(iter(batches)), "validation images"


def spread(
    model: IResNetFlow, x: tf.Tensor, estimator: Any, draws: int, certificate: Certificate
) -> tuple[float, float]:
    """Return the standard deviation of one draw (mean over images) and the mean, in nats."""
    draw = tf.function(
        lambda: log_det_statistics(model.flow, x, 0, estimator, draws, certificate=certificate),
        autograph=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteVarianceWarning)  # it is what is compared
        statistics = draw()
    variance = np.mean(statistics.variance, dtype=np.float64)
    return float(np.sqrt(variance)), float(np.mean(statistics.mean, dtype=np.float64))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args(arguments)
    model = exported_flow()
    certificate = certify(model)
    x, source = images(model, options.images)
    found = {
        name: spread(model, x, e, options.draws, certificate) for name, e in ESTIMATORS.items()
    }
    gaussian = found["gaussian"][0]
    result = {
        "standard_deviation_nats": {name: value[0] for name, value in found.items()},
        "mean_nats": {name: value[1] for name, value in found.items()},
        "ratio": {name: value[0] / gaussian for name, value in found.items()},
        "images": options.images,
        "source": source,
        "draws": options.draws,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
