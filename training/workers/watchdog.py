"""Ends a process whose steps have stopped coming, since another worker hangs."""

import os
import sys
import threading
import time

import keras

from training.typing import Logs

HANGS = 75  # the exit status: "temporary failure, try again"


class Watchdog(keras.callbacks.Callback):
    """Ends the process when no step has ended for a while.

    Workers wait for each other in every step, so that one that is stopped, or out of reach, stops
    them all, and TensorFlow waits for ever. The first step, which is traced, may take any time.

    Args:
      seconds: how long to wait for a step.
      worker: the number of this process, for the message.
    """

    def __init__(self, seconds: float, worker: int) -> None:
        super().__init__()
        self._seconds = seconds
        self._worker = worker
        self._last: float | None = None
        self._ended = threading.Event()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._last = time.monotonic()

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._last = time.monotonic()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._last = None  # its first step is traced

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._last = time.monotonic()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            last = self._last
            if last is not None and time.monotonic() - last > self._seconds:
                sys.stderr.write(
                    f"error: worker {self._worker} has waited {self._seconds:g} seconds for a "
                    "step: another worker hangs or is out of reach; end all workers and give the "
                    "same command again\n"
                )
                sys.stderr.flush()
                os._exit(HANGS)  # the main thread is inside TensorFlow, waiting
