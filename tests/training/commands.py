"""The command line, in this process or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from training.cli import main


def invoke(*words) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="python -m training")


def refused(*words) -> str:
    """Runs a command that must fail, and gives its one line of standard error."""
    result = invoke(*words)
    assert result.exit_code != 0
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def command(*words) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, which logs what TensorFlow logs by default."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, words)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
