"""What happens around Keras' training loop: stopping, bookkeeping, checkpoints."""

import math
from typing import Any

import keras

from tf_iresnet import certify
from tf_iresnet.layers import InvertibleResidual
from training.checkpoints import Checkpoints
from training.errors import RunError
from training.machine import cpu_seconds
from training.run import Run


class StopAt(keras.callbacks.Callback):
    """Ends training after a given step, and at once when the loss is no number.

    Args:
        steps: the number of steps in all.
        checkpoints: where the last good state is.
    """

    def __init__(self, steps: int, checkpoints: Checkpoints):
        super().__init__()
        self._steps = steps
        self._checkpoints = checkpoints
        self._done = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._done = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += 1
        check_finite(logs, self._done, self._checkpoints)
        if self._done >= self._steps:
            self.model.stop_training = True


class Record(keras.callbacks.Callback):
    """Notes losses and cost, then saves the state, at the end of each of Keras' epochs.

    The notes are written first: after an interruption between the two they only reach too far,
    which is mended on resuming.

    Args:
        run: the run's folder.
        checkpoints: its checkpoints.
        spent: processor seconds of earlier processes.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, spent: float):
        super().__init__()
        self._run = run
        self._checkpoints = checkpoints
        self._spent = spent

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations)
        check_finite(logs, step, self._checkpoints)
        record = {"step": step, **{name: float(value) for name, value in (logs or {}).items()}}
        record["learning_rate"] = float(self.model.optimizer.learning_rate)
        record["cpu_seconds"] = round(self._spent + cpu_seconds(), 1)
        self._run.write_history([*self._run.history(), record])
        self._checkpoints.save(step)


class Bounds(keras.callbacks.Callback):
    """Adds to the logs, at the end of each epoch, how large the blocks' Lipschitz constants are.

    `lipschitz_bound` is proven, `lipschitz_estimate` is what the layers believe; both are of
    the weights just trained and the largest over the blocks. TensorBoard shows what is in the logs.
    """

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        try:
            bound = certify(self.model).contraction
        except ValueError:  # a part without a known bound, or weights that are no numbers
            return
        logs |= {"lipschitz_bound": bound, "lipschitz_estimate": estimated_lipschitz(self.model)}


def estimated_lipschitz(model: keras.Model) -> float:
    """Estimates the largest Lipschitz constant of a model's branches, from below.

    Args:
        model: the model.

    Returns:
        The largest of what the branches believe in.
    """
    blocks = [b for b in model.flow._flatten_layers() if isinstance(b, InvertibleResidual)]
    return max(block.branch.lipschitz_estimate() for block in blocks)


def check_finite(logs: Any, step: int, checkpoints: Checkpoints) -> None:
    """Refuses losses that are no numbers.

    Args:
        logs: Keras' logs.
        step: the number of steps done.
        checkpoints: where the last good state is.

    Raises:
        RunError: one of the logs is infinite or NaN.
    """
    for name, value in (logs or {}).items():
        if not math.isfinite(value):
            last = checkpoints.step
            kept = "nothing was saved yet" if last is None else f"step {last} is kept"
            raise RunError(
                f"{name} is {float(value)} at step {step}; {kept}: lower "
                "optimizer.learning_rate or optimizer.clipnorm, in another folder"
            )
