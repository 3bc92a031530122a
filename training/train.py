"""Training with Keras' own `fit`, in a folder from which the same command resumes."""

import math
import os
import shlex
from collections.abc import Sequence
from typing import Any

import keras

from training.callbacks import Bounds, Record, Steps, Terminated
from training.checkpoints import Checkpoints
from training.config import Experiment
from training.console import say
from training.data import DataError, Dataset, eval_batches, load_dataset, train_batches
from training.errors import RunError
from training.machine import cores, versions
from training.models import build_model, parameter_count
from training.run import Run
from training.signals import Request, termination


def train(
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    command: str = "",
    verbose: int = 2,
) -> dict[str, Any]:
    """Trains an experiment, or continues it from its last checkpoint.

    An epoch of `fit` is the interval between two checkpoints. Batch t is a function of seed and
    t, so that an interrupted run ends as an uninterrupted one.

    Args:
        experiment: the experiment.
        out: the run's folder.
        data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.
        command: the command that repeats the run, for the record.
        verbose: how Keras shows its progress: 1 for a bar, 2 for lines, 0 for nothing.

    Returns:
        What was written to `metrics.json`.

    Raises:
        RunError: the folder cannot be used, or the loss is no number.
        DataError: the data set cannot be had.
    """
    run = Run(out)
    dataset = load_dataset(experiment.dataset, data_dir)
    resuming = run.check(experiment)
    batches_for = _batches(experiment, dataset)
    keras.utils.set_random_seed(experiment.seed)
    model = build_model(experiment, dataset.spec)
    with run.locked(), termination() as request:
        checkpoints = Checkpoints(run.checkpoints, model)
        start = (checkpoints.restore() or 0) if resuming else 0
        if start > experiment.steps:
            raise RunError(f"{str(out)!r} has done {start} steps; ask for at least as many")
        if start == experiment.steps and run.metrics().get("steps") == start:
            say(f"{experiment.name} in {str(out)!r} is finished: {start} steps are done")
            return run.metrics()
        run.begin(experiment, command)
        checkpoints.clean()
        _introduce(experiment, model, start)
        try:
            while start < experiment.steps:
                _fit(
                    experiment, model, run, checkpoints, start, batches_for(start), request, verbose
                )
                start = checkpoints.restore() or 0  # `fit` ends with changes to the model
        except Terminated:
            say(f"asked to end: step {checkpoints.step} is saved; the same command goes on")
            return run.metrics()
        metrics = _summary(experiment, model, run)
        run.write_metrics(metrics)
    say(f"finished {experiment.steps} steps in {metrics['cpu_seconds']:.0f} CPU-seconds")
    return metrics


def repeating_command(
    name: str, out: str | os.PathLike[str], steps: int | None, seed: int | None, sets: Sequence[str]
) -> str:
    """Writes down how to repeat a run, without the folders of this machine.

    Args:
        name: the experiment.
        out: the run's folder, of which the last part is used.
        steps: the number of steps, if it was given.
        seed: the seed, if it was given.
        sets: the changes to settings.

    Returns:
        A command line.
    """
    folder = f"runs/{os.path.basename(os.path.abspath(out))}"
    words = ["python", "-m", "training", "train", name, "--out", folder]
    words += [] if steps is None else ["--steps", str(steps)]
    words += [] if seed is None else ["--seed", str(seed)]
    for change in sets:
        words += ["--set", change]
    return shlex.join(words)


def _batches(experiment: Experiment, dataset: Dataset) -> Any:
    """Reads the data, so that what is wrong with it shows before any work."""
    common: dict[str, Any] = {"seed": experiment.seed, "task": experiment.data_task}
    limit = experiment.validation_images
    try:
        validation = eval_batches(
            dataset, "validation", experiment.eval_batch_size, limit=limit, **common
        )
        common["augment"] = experiment.augment
        train_batches(dataset, experiment.batch_size, **common)
    except ValueError as error:
        raise DataError(str(error)) from error
    return lambda start: (
        train_batches(dataset, experiment.batch_size, start_step=start, **common),
        validation,
    )


def _introduce(experiment: Experiment, model: keras.Model, start: int) -> None:
    place = f"continues after step {start}" if start else "starts"
    say(
        f"{experiment.name} {place}: {experiment.steps} steps of {experiment.batch_size} examples, "
        f"{parameter_count(model):,} parameters; an epoch below is {experiment.interval} steps"
    )


def _fit(
    experiment: Experiment,
    model: keras.Model,
    run: Run,
    checkpoints: Checkpoints,
    start: int,
    batches: Any,
    request: Request,
    verbose: int,
) -> None:
    """Trains to the end or, amid an interval, to the end of that."""
    records = run.history()
    spent = max((record["cpu_seconds"] for record in records), default=0.0)
    run.write_history([record for record in records if record["step"] <= start])
    first, done = divmod(start, experiment.interval)
    left = 1 if done else math.ceil((experiment.steps - start) / experiment.interval)
    training, validation = batches
    model.fit(
        training,
        validation_data=validation,
        initial_epoch=first,
        epochs=first + left,
        steps_per_epoch=experiment.interval - done,
        verbose=verbose,
        shuffle=False,  # the stream is shuffled
        callbacks=[
            Steps(experiment, checkpoints, request),
            Bounds(),  # before those that write what is in the logs
            Record(run, checkpoints, spent),
            keras.callbacks.TensorBoard(str(run.tensorboard), write_graph=False),
        ],
    )


def _summary(experiment: Experiment, model: keras.Model, run: Run) -> dict[str, Any]:
    last = run.history()[-1]
    return {
        "experiment": experiment.name,
        "command": run.command(),
        "seed": experiment.seed,
        "steps": experiment.steps,
        "cores": cores(),
        "cpu_seconds": last["cpu_seconds"],
        "parameters": parameter_count(model),
        "certified_lipschitz": None,
        "validation": {k.removeprefix("val_"): v for k, v in last.items() if k.startswith("val_")},
        "versions": versions(),
    }
