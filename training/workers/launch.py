"""Several workers on this machine, which end together."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

import click

from training.errors import RunError
from training.workers.signals import Request, termination

_GRACE = 10.0  # seconds from SIGTERM to SIGKILL
_FOR_ALL = 30.0  # seconds that the others have after the first one has ended
_PR_SET_PDEATHSIG = 1


def launch(workers: int, arguments: Sequence[str]) -> int:
    """Runs `python -m training train` in several processes that train one model.

    A worker that fails ends the others. SIGTERM and Ctrl-C are passed on: the workers save, and the
    same command continues from there. A second Ctrl-C ends all of them at once.

    Args:
      workers: how many.
      arguments: those of `train`.

    Returns:
      The exit status: 0, or that of the first worker that failed.

    Raises:
      RunError: if the number of workers cannot be used.
      KeyboardInterrupt: if Ctrl-C was pressed, once the workers have ended.
    """
    if workers < 1:
        raise RunError(f"--workers {workers} is too small; give 1 or more")
    with termination() as request:
        addresses = _addresses(workers)
        children = [_start(index, addresses, arguments) for index in range(workers)]
        readers = [
            threading.Thread(target=_prefix, args=(f"[worker {index}] ", source, target))
            for index, child in enumerate(children)
            for source, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
        ]
        for reader in readers:
            reader.start()
        try:
            return _wait(children, request)
        finally:
            _end(children)
            for reader in readers:
                reader.join()


def _wait(children: list[subprocess.Popen[str]], request: Request) -> int:
    """Waits until all have ended well, or one has failed."""
    asked, first_end = False, None
    while True:
        codes = [child.poll() for child in children]
        for index, code in enumerate(codes):
            if code:
                reason = f"signal {-code}" if code < 0 else f"status {code}"
                click.echo(f"error: worker {index} ended with {reason}", err=True)
                return 128 - code if code < 0 else code
        if all(code == 0 for code in codes):
            return 0
        if any(code == 0 for code in codes):
            first_end = first_end or time.monotonic()
            if time.monotonic() - first_end > _FOR_ALL:
                index = codes.index(None)
                click.echo(f"error: worker {index} did not end with the others", err=True)
                return 1
        if request.made and not asked:
            asked = True
            for child in children:
                child.send_signal(signal.SIGTERM)
        time.sleep(0.1)


def _end(children: list[subprocess.Popen[str]]) -> None:
    """Ends what still runs; a process that is stopped obeys the last request alone."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _addresses(count: int) -> list[str]:
    """Finds free ports, all held until the last is found."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{item.getsockname()[1]}" for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _start(index: int, addresses: list[str], arguments: Sequence[str]) -> subprocess.Popen[str]:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "PYTHONUNBUFFERED": "1"}
    environment.update(_part_of_the_machine(index, len(addresses)))
    return subprocess.Popen(
        [sys.executable, "-m", "training", "train", *arguments, "--strategy", "multiworker"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # An interruption from the keyboard goes to the launcher alone, which passes it on.
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def _part_of_the_machine(index: int, count: int) -> dict[str, str]:
    """Shares out cores and GPUs, unless the environment already says something."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    threads = str(max(1, cores // count))
    part = {
        name: os.environ.get(name, threads)
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    }
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        folder = "/proc/driver/nvidia/gpus"
        found = len(os.listdir(folder)) if os.path.isdir(folder) else 0
        gpus = [str(number) for number in range(found)]
    else:
        gpus = [name for name in visible.split(",") if name]
    if gpus:
        part["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index::count])
    return part


def _end_with_parent() -> None:
    """Lets the kernel end a worker whose launcher was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prefix(prefix: str, source: IO[str] | None, target: IO[str]) -> None:
    for line in source or ():
        target.write(prefix + line)
        target.flush()
