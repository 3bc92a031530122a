"""What a run cost, and what it ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"))
_PACKAGES = ("tf_iresnet", "tensorflow", "keras", "tensorflow_probability", "numpy")


def cpu_seconds() -> float:
    """Returns the processor time that this process and its descendants have used.

    It is user and system time in seconds, finished children included.
    """
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of reaped children
        except psutil.NoSuchProcess:  # ended meanwhile: it counts among the reaped
            continue
    return total


def cores() -> int:
    """Counts the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor(source: Path = Path("/proc/cpuinfo")) -> str:
    """Names the processor and its widest vectors, on which times depend, as in "AMD EPYC, AVX2".

    Args:
      source: what Linux says of it; without that file Python's name is taken.
    """
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # The cores of a machine say the same.
    said = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    flags = said.get("flags", "").split()
    vectors = next((label for flag, label in _VECTORS if flag in flags), None)
    return ", ".join(filter(None, (said.get("model name", platform.machine()), vectors)))


def versions() -> dict[str, str]:
    """Returns the versions that results depend on: Python's and those of packages."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages}
