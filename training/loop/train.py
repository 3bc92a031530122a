"""Training with Keras' own `fit`, in a folder from which the same command resumes."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from tf_iresnet.models import SkippedStepsError
from tf_iresnet.models.training.model import Model
from training.console import say
from training.data import DataError, Dataset, Share, eval_batches, load_dataset, train_batches
from training.errors import RunError
from training.experiments.config import Experiment
from training.loop.callbacks import Bounds, Record, Save, Steps, Terminated, steps_done
from training.loop.models import build_model, parameter_count
from training.runs.checkpoints import Checkpoints, check_settings
from training.runs.commands import command as command_line
from training.runs.commands import portable
from training.runs.files import is_full, trouble
from training.runs.machine import cores, processor, versions
from training.runs.run import Run
from training.typing import Keywords, PathLike, Results
from training.workers.devices import Devices, FitData, make_devices
from training.workers.signals import Request, termination
from training.workers.votes import Vote
from training.workers.watchdog import Watchdog


def train(
    experiment: Experiment,
    out: PathLike,
    *,
    data_dir: PathLike | None = None,
    command: str = "",
    verbose: int = 2,
    devices: Devices | None = None,
    hang_timeout: float = 300,
) -> Results:
    """Trains an experiment, or continues it from its last checkpoint.

    An epoch of `fit` is the interval between two checkpoints. Batch t is a function of the seed and
    t, so that a run that is interrupted and resumed ends as one that is not.

    Args:
      experiment: the experiment.
      out: the run's folder.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.
      command: the command that repeats the run, for the record.
      verbose: how Keras shows its progress: 1 for a bar, 2 for lines, 0 for nothing.
      devices: where to train; None for one device. They change no result.
      hang_timeout: seconds after which one of several workers gives up waiting for a step.

    Returns:
      What was written to `metrics.json`; nothing on workers that do not write.

    Raises:
      RunError: if the folder cannot be used, or the loss is no number.
      DataError: if the data set cannot be had.
      KeyboardInterrupt: if Ctrl-C was pressed; the state is saved.
    """
    run = Run(out)
    devices = make_devices() if devices is None else devices
    dataset = load_dataset(experiment.dataset, data_dir)
    if devices.is_chief:
        if run.is_there:
            run.check_notes()
            check_settings(run.checkpoints, run.experiment())
        run.check(experiment)
    batches_for = _batches(experiment, dataset, devices)
    keras.config.set_floatx("float64" if experiment.precision == "float64" else "float32")
    keras.utils.set_random_seed(experiment.seed)
    with devices.strategy.scope():
        model = build_model(experiment, dataset.spec)
    locked = run.locked() if devices.is_chief else contextlib.nullcontext()
    with locked, devices.watched(), termination() as request:
        checkpoints = Checkpoints(run.checkpoints, experiment, model, devices.is_chief)
        start = checkpoints.restore() or 0
        devices.check_same("a last checkpoint of step", start)
        if start > experiment.steps:
            raise RunError(f"{str(out)!r} has done {start} steps; ask for at least as many")
        session = Session(
            experiment=experiment,
            model=model,
            run=run,
            checkpoints=checkpoints,
            devices=devices,
            request=request,
            verbose=verbose if devices.is_chief else 0,
            hang_timeout=hang_timeout,
        )
        if devices.is_chief:
            if start == experiment.steps and run.metrics().get("steps") == start:
                say(f"{experiment.name} in {str(out)!r} is finished: {start} steps are done")
                return run.metrics()
            if not start:
                run.check_untrained()
            if start == experiment.steps and not run.history():
                raise RunError(f"{str(out)!r} has lost its history.json; restore it")
            run.begin(experiment, command)
            checkpoints.clean()
            _introduce(session, start)
        try:
            while start < experiment.steps:
                _fit(session, start, batches_for(start))
                start = steps_done(model)
                if start < experiment.steps:  # `fit` changes the model as it ends
                    devices.check_same("done a number of steps of", start)  # waits for the writer
                    checkpoints.restore()
        except Terminated:
            say(f"asked to end: step {checkpoints.step} is saved; the same command goes on")
            return run.metrics()
        except (tf.errors.OpError, OSError) as error:  # of what Keras writes
            if not is_full(error):
                raise
            raise RunError(
                f"{str(out)!r} cannot be written to; {checkpoints.kept()}: {trouble(error)}"
            ) from error
        if not devices.is_chief:
            return {}
        metrics = _summary(experiment, model, run)
        run.write_metrics(metrics)
    say(f"finished {experiment.steps} steps in {metrics['cpu_seconds']:.0f} CPU-seconds")
    return metrics


def repeating_command(
    name: str, out: PathLike, steps: int | None, seed: int | None, sets: Sequence[str]
) -> str:
    """Returns the command that repeats a run, without the folders of this machine.

    Args:
      name: the experiment.
      out: the run's folder, of which the last part is used.
      steps: the number of steps, if it was given.
      seed: the seed, if it was given.
      sets: the changes to settings.
    """
    words = ["train", name, "--out", portable(out)]
    words += [] if steps is None else ["--steps", str(steps)]
    words += [] if seed is None else ["--seed", str(seed)]
    for change in sets:
        words += ["--set", change]
    return command_line(*words)


def _batches(
    experiment: Experiment, dataset: Dataset, devices: Devices
) -> "Callable[[int], Batches]":
    """Returns what makes batches from a step on; data that cannot be used are refused at once."""
    common: Keywords = {"seed": experiment.seed, "task": experiment.data_task}
    common["dtype"] = "float64" if experiment.precision == "float64" else "float32"
    size, limit = experiment.batch_size, experiment.validation_images
    if size < devices.replicas:
        raise RunError(f"batch_size={size} is too small for {devices.replicas} devices")

    def validation(share: Share) -> tf.data.Dataset:
        return eval_batches(
            dataset, "validation", experiment.eval_batch_size, limit=limit, share=share, **common
        )

    def training(start: int, share: Share) -> tf.data.Dataset:
        augment = experiment.augment
        return train_batches(
            dataset, size, start_step=start, augment=augment, share=share, **common
        )

    try:
        count = len(validation(Share()))
        training(0, Share())
    except ValueError as error:
        raise DataError(str(error)) from error
    return lambda start: Batches(
        devices.batches(lambda share: training(start, share)),
        devices.batches(validation),
        count,
        training(start, Share()),
    )


@dataclass(frozen=True)
class Batches:
    """What `fit` reads: training and validation batches, and how many of the latter there are.

    `whole` are the training batches that are not shared out.
    """

    training: FitData
    validation: FitData
    validation_steps: int
    whole: tf.data.Dataset


@dataclass(frozen=True)
class Session:
    """What belongs to the training of one process."""

    experiment: Experiment
    model: Model
    run: Run
    checkpoints: Checkpoints
    devices: Devices
    request: Request
    verbose: int
    hang_timeout: float


def _introduce(session: Session, start: int) -> None:
    experiment, devices = session.experiment, session.devices
    place = f"continues after step {start}" if start else "starts"
    where = f" on {devices.replicas} devices" if devices.replicas > 1 else ""
    say(
        f"{experiment.name} {place}{where}: {experiment.steps} steps of "
        f"{experiment.batch_size} examples, {parameter_count(session.model):,} parameters; an "
        f"epoch below is {min(experiment.interval, experiment.steps)} steps"
    )


def _fit(session: Session, start: int, batches: Batches) -> None:
    """Trains to the end, or from amid an interval to its end."""
    experiment, model = session.experiment, session.model
    first, done = divmod(start, experiment.interval)
    left = 1 if done else math.ceil((experiment.steps - start) / experiment.interval)
    if not model.initialized:
        model.adapt(batches.whole)
    model.max_skipped_steps = experiment.bad_steps
    try:
        model.fit(
            batches.training,
            validation_data=batches.validation,
            validation_steps=batches.validation_steps,
            initial_epoch=first,
            epochs=first + left,
            steps_per_epoch=min(experiment.interval - done, experiment.steps - start),
            verbose=session.verbose,
            shuffle=False,  # the stream is shuffled
            callbacks=_callbacks(session, start),
        )
    except SkippedStepsError as error:
        raise RunError(
            f"{str(error).rstrip('.')}; this was step {steps_done(model)}; "
            f"{session.checkpoints.kept()}: set optimizer.learning_rate or optimizer.clipnorm, in "
            "another folder"
        ) from error


def _callbacks(session: Session, start: int) -> list[keras.callbacks.Callback]:
    """Makes the callbacks; of several processes one keeps the records."""
    run, checkpoints, devices = session.run, session.checkpoints, session.devices
    vote = Vote(session.request, devices)
    steps: list[keras.callbacks.Callback] = [Steps(session.experiment, checkpoints, vote)]
    if devices.workers > 1:
        steps.append(Watchdog(session.hang_timeout, devices.worker))
    if not devices.is_chief:
        return [*steps, Save(checkpoints, vote)]
    records = run.history()
    spent = max((record["cpu_seconds"] for record in records), default=0.0)
    run.write_history([record for record in records if record["step"] <= start])
    return [
        *steps,
        Bounds(),  # before those that write what is in the logs
        Record(run, checkpoints, spent),
        keras.callbacks.TensorBoard(str(run.tensorboard), write_graph=False),
        Save(checkpoints, vote),
    ]


def _summary(experiment: Experiment, model: keras.Model, run: Run) -> Results:
    last = run.history()[-1]
    return {
        "experiment": experiment.name,
        "command": run.command(),
        "seed": experiment.seed,
        "steps": experiment.steps,
        "cores": cores(),
        "processor": processor(),
        "cpu_seconds": last["cpu_seconds"],
        "parameters": parameter_count(model),
        "certified_lipschitz": None,
        "validation": {k.removeprefix("val_"): v for k, v in last.items() if k.startswith("val_")},
        "versions": versions(),
    }
