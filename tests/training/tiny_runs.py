"""Runs on digits or toys that take seconds, and what they have written."""

import json

import tensorflow as tf

from training.experiments.catalog import load_experiment

TINY = (
    "model.blocks=[1]",
    "model.hidden=4",
    "model.eval_log_det.exact_terms=4",
    "model.eval_log_det.probability=0.5",
    "batch_size=8",
    "interval=2",
    "validation_images=20",
    "schedule.warmup_steps=0",
    "eval_batch_size=50",
)
CLASSIFIER = [change for change in TINY if "eval_log_det" not in change]
CLASSIFIER += ["dataset=digits", "model.padding=1", "model.hidden=[4]", "label_smoothing=0.1"]


def as_options(changes: tuple[str, ...]) -> list[str]:
    """Writes changes as options of the command line."""
    return [word for change in changes for word in ("--set", change)]


def tiny(*changes, name="digits_flow", steps=5, seed=None):
    """An experiment with one small block, and with other changes."""
    small = ("model.kernel_sizes=[1, 1]", "model.log_det.exact_terms=1")
    return load_experiment(name, [*TINY, *small, *changes], steps=steps, seed=seed)


def weights(folder, step):
    """All that a checkpoint holds of training, by name."""
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"step-{step}"))
    kinds = ("model/", "optimizer/", "metrics/", "counters/")
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(kinds)
    }


def history(folder):
    """What a run has noted, but for the time that it took."""
    records = json.loads((folder / "history.json").read_text())
    return [{k: v for k, v in record.items() if k != "cpu_seconds"} for record in records]
