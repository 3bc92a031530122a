"""A worker in its own process, spoken to in lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent


class WorkerError(RuntimeError):
    """A worker refused a command or died."""


class WorkerProcess:
    """Starts and sets up a worker; leaving the context ends it."""

    def __init__(self, module: str, threads: int, **setup: Any) -> None:
        self.module = module
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=_ROOT,
            env={**os.environ, **limits, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.info = self("setup", threads=threads, **setup)
        except WorkerError:
            self.close()
            raise

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __call__(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and return its answer.

        Raises:
          WorkerError: if the worker answers with an error, or not at all.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"cmd": command, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.module} ended during {command!r}; see its messages above")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.module}, {command!r}: {answer['error']}")
        return answer
