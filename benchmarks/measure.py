"""Time and memory of a process, and the loop of a worker driven by JSON lines.

The peer's worker runs without this package and so has its own copies of these few lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def memory_bytes(field: str) -> int:
    """A memory field of this process, VmRSS or VmHWM.

    ``ru_maxrss`` will not do: a child inherits its parent's high-water mark.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def reset_peak() -> None:
    """Let the high-water mark of resident memory start again from here."""
    Path("/proc/self/clear_refs").write_text("5")


class Stopwatch:
    """Wall and processor time of a ``with`` block."""

    def __enter__(self) -> Stopwatch:
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu

    def report(self, **values: object) -> dict[str, Any]:
        """Return the answer of a timed command."""
        times = {"seconds": self.wall, "cpu_seconds": self.cpu}
        return {**times, "peak_bytes": memory_bytes("VmHWM"), **values}


def serve(commands: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer each line of standard input with one line of JSON, until told to quit."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in filter(str.strip, sys.stdin):
        try:
            command = json.loads(line)
            name = command.pop("cmd")
            answer = {} if name == "quit" else commands[name](**command)
        except Exception as error:  # the harness decides; the worker lives on
            name, answer = None, {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        if name == "quit":
            break
