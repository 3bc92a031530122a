"""What happens around Keras' training loop: stopping, bookkeeping, checkpoints."""

import math

import keras
import tensorflow as tf

from tf_iresnet import certify
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.models.training.model import Model
from training.errors import RunError
from training.experiments.config import Experiment
from training.runs.checkpoints import Checkpoints
from training.runs.machine import cpu_seconds
from training.runs.run import Run
from training.typing import Logs
from training.workers.votes import Vote


class Terminated(Exception):
    """Training was asked to end, and its state is saved."""


class Steps(keras.callbacks.Callback):
    """Counts steps: after each, training may end or the state be saved.

    Args:
      experiment: how many steps there are, and in which intervals.
      checkpoints: where the last good state is.
      vote: says when all processes end early.
    """

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, vote: Vote) -> None:
        super().__init__()
        self._steps = experiment.steps
        self._interval = experiment.interval
        self._checkpoints = checkpoints
        self._vote = vote
        self._done = 0
        self._amid = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._done = steps_done(self.model)
        self._vote.begin(self._done)
        self._amid = self._done % self._interval > 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self._amid:  # Keras resets metrics as an epoch begins
            self._checkpoints.restore_metrics()
            self._amid = False

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._done += 1
        if self._done >= self._steps:
            self.model.stop_training = True
        elif self._vote.after(self._done) and self._done % self._interval:
            # At the end of an interval `Save` does so, after `Record`.
            self._checkpoints.save(self._done)
            raise Terminated


class Record(keras.callbacks.Callback):
    """Notes losses and cost at the end of each of Keras' epochs.

    It comes before `Save`: an interruption between the two leaves an entry too many, which resuming
    removes.

    Args:
      run: the run's folder.
      checkpoints: its checkpoints.
      spent: processor seconds of the processes before this one.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, spent: float) -> None:
        super().__init__()
        self._run = run
        self._checkpoints = checkpoints
        self._spent = spent

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        step = steps_done(self.model)
        check_finite(logs, step, self._checkpoints)
        record = {"step": step, **{name: float(value) for name, value in (logs or {}).items()}}
        record["learning_rate"] = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        record["skipped_steps"] = int(tf.convert_to_tensor(self.model.step_counters)[0])
        record["cpu_seconds"] = round(self._spent + cpu_seconds(), 1)
        self._run.write_history([*self._run.history(), record])


class Save(keras.callbacks.Callback):
    """Saves the state at the end of each of Keras' epochs, in all processes at once.

    It is the last callback, since it may end training.

    Args:
      checkpoints: where to.
      vote: says when all processes end early.
    """

    def __init__(self, checkpoints: Checkpoints, vote: Vote) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._vote = vote

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._checkpoints.save(steps_done(self.model))
        if self._vote.ends and not self.model.stop_training:
            raise Terminated


class Bounds(keras.callbacks.Callback):
    """Adds the blocks' Lipschitz constants to the logs, at the end of each epoch, for TensorBoard.

    `lipschitz_bound` is proven, `lipschitz_estimate` is the layers' own estimate; both are of the
    weights just trained, and the largest over the blocks.
    """

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = {} if logs is None else logs
        if not all(math.isfinite(value) for value in logs.values()):
            return
        try:
            bound = certify(self.model).contraction
        except ValueError:  # a part without a known bound
            return
        if not math.isfinite(bound):  # of weights that are no numbers
            return
        logs |= {"lipschitz_bound": bound, "lipschitz_estimate": estimated_lipschitz(self.model)}


def estimated_lipschitz(model: keras.Model) -> float:
    """Returns the layers' estimate of the largest Lipschitz constant of a branch, from below."""
    blocks = [b for b in layers_inside(model.flow) if isinstance(b, InvertibleResidual)]
    return max(block.branch.lipschitz_estimate() for block in blocks)


def check_finite(logs: Logs | None, step: int, checkpoints: Checkpoints) -> None:
    """Refuses losses that are infinite or NaN.

    Args:
      logs: Keras' logs.
      step: the number of steps done.
      checkpoints: where the last good state is.

    Raises:
      RunError: if one of the logs is infinite or NaN.
    """
    for name, value in (logs or {}).items():
        if not math.isfinite(value):
            raise RunError(
                f"{name} is {float(value)} at step {step}; {checkpoints.kept()}: lower "
                "optimizer.learning_rate or optimizer.clipnorm, in another folder"
            )


def steps_done(model: Model) -> int:
    """Returns how many steps a model has been trained for; skipped ones count."""
    return int(tf.convert_to_tensor(model.steps_taken))
