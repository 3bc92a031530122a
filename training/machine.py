"""What a run cost, and what it ran on."""

import importlib.metadata
import os
import platform

import psutil

_PACKAGES = ("tf_iresnet", "tensorflow", "keras", "tensorflow_probability", "numpy")


def cpu_seconds() -> float:
    """Adds up the processor time that this process and its descendants have used.

    Returns:
        User and system time in seconds, finished children included.
    """
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of reaped children
        except psutil.NoSuchProcess:  # it has just ended, and now counts as reaped
            continue
    return total


def cores() -> int:
    """Counts the processors this process may use.

    Returns:
        Their number.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Names the versions that results depend on.

    Returns:
        The version of Python and of each package.
    """
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages}
