"""How well a density tells images of another kind from those it was trained for."""

import numpy as np
import tensorflow as tf

from training.data.outliers import outliers
from training.data.preprocess import dequantise
from training.data.randomness import stream_key
from training.errors import RunError
from training.measures import pictures
from training.measures.auroc import auroc
from training.measures.finished import Finished
from training.measures.inputs import probe_seed
from training.measures.measuring import bits_of_split
from training.runs.commands import command, portable
from training.runs.files import as_json, write_files
from training.runs.machine import cpu_seconds, versions
from training.typing import PathLike, Results

_CONFIDENCE = 0.95


def score_outliers(
    finished: Finished,
    *,
    limit: int = 1_000,
    data_dir: PathLike | None = None,
) -> Results:
    """Scores test images and outliers by their bits/dim; writes `ood.json` and `ood.png`.

    Both scores are larger for what fits less: "likelihood" is bits/dim itself, "typicality" its
    distance from the mean over validation images. Each gets the area under the ROC curve of every
    set of outliers against the test images. Noise and probes are functions of the run's seed, of
    the set and of the image's index; nothing is chosen on the test images.

    Args:
      finished: the run of a flow or a hybrid.
      limit: how many test images, validation images and outliers of each set, at most.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.

    Returns:
      What was written to `ood.json`.

    Raises:
      RunError: if the model has no single density of images, or `limit` is too small.
      DataError: if a data set cannot be had.

    Source: Nalisnick et al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using
    Typicality.
    """
    name, seed, before = finished.experiment.name, finished.experiment.seed, cpu_seconds()
    finished.check_density()
    if finished.is_conditional:
        raise RunError(f"{name} has a density for each class; give an unconditional flow's folder")
    if limit < 2:
        raise RunError(f"--limit {limit} is too small; give at least 2")
    sizes = finished.dataset.spec.split_sizes
    test_images = min(limit, sizes["test"])
    sets = outliers(finished.dataset, test_images, seed, data_dir)
    # The test images as `evaluate` sees them.
    test = bits_of_split(finished, "test", test_images, "evaluation/probes")
    held_out = min(limit, sizes["validation"])
    usual = bits_of_split(finished, "validation", held_out, "ood/validation").mean()
    bits = {kind: _of_images(finished, kind, x) for kind, x in sets.items()}
    for kind, values in (("test", test), *bits.items()):
        if not np.isfinite(values).all():
            raise RunError(f"bits/dim of {kind!r} images are not finite; train {name} again")
    results = {
        "experiment": name,
        "command": command("ood", portable(finished.run.folder), "--limit", str(limit)),
        "seed": seed,
        "steps": finished.step,
        "validation": {"images": held_out, "bits_per_dim": float(usual)},
        "test": {"images": test_images, "bits_per_dim": float(test.mean())},
        "confidence": _CONFIDENCE,
        "outliers": {
            kind: {
                "images": len(values),
                "bits_per_dim": float(values.mean()),
                "auroc": {
                    "likelihood": _area(test, values),
                    "typicality": _area(np.abs(test - usual), np.abs(values - usual)),
                },
            }
            for kind, values in bits.items()
        },
        "evaluation_cpu_seconds": round(cpu_seconds() - before, 1),
        "versions": versions(),
    }
    every = {"test": test, **bits}
    write_files(
        {
            finished.run.folder / "ood.json": as_json(results),
            finished.run.folder / "ood.png": lambda file: pictures.write_histograms(
                file, "bits/dim", every, float(usual)
            ),
        }
    )
    return results


def _area(inside: np.ndarray, outside: np.ndarray) -> Results:
    area = auroc(inside, outside, _CONFIDENCE)
    return {"value": area.value, "interval": [area.low, area.high]}


def _of_images(finished: Finished, kind: str, images: np.ndarray) -> np.ndarray:
    seed, size = finished.experiment.seed, finished.experiment.eval_batch_size
    noise, found = stream_key(seed, f"ood/{kind} noise"), []
    for first in range(0, len(images), size):
        x = dequantise(tf.constant(images[first : first + size]), noise, first, tf.float32)
        probes = probe_seed(seed, f"ood/{kind} probes", first)
        found.append(finished.bits_per_dim(probes, x).numpy())
    return np.concatenate(found).astype(np.float64)
