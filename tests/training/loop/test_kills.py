"""Training that is killed at any moment, on one device, on several, and in several processes."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.training.commands import invoke
from tests.training.tiny_runs import as_options, history, weights

STEPS = 60
SMALL = as_options(
    (
        "schedule.warmup_steps=0",
        "model.blocks=[1]",
        "model.hidden=4",
        "model.kernel_sizes=[1]",
        "model.eval_log_det.exact_terms=2",
        "model.eval_log_det.probability=0.5",
        "batch_size=8",
        "interval=4",
        "validation_images=21",
        "eval_batch_size=10",
    )
)
HOW = {
    "single": ("train",),
    "mirrored": ("train",),
    "worker": ("launch", "--workers", "2"),
    "chief": ("launch", "--workers", "2"),
}
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_DETERMINISTIC_OPS": "1"}


def words_of(kind: str, folder: Path) -> list[str]:
    return [*HOW[kind], "toy_moons_flow", "--out", str(folder), "--steps", str(STEPS), *SMALL]


class Command:
    """A training in the background; it and its children are gone afterwards."""

    def __init__(self, kind: str, folder: Path, *more: str, program=("-m", "training")):
        self.launches = "launch" in HOW[kind]
        words = words_of(kind, folder)
        if kind == "mirrored":
            more = (*more, "--strategy", "mirrored", "--logical-devices", "2")
        self.log = (folder.parent / f"{folder.name}.log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, *program, *words, *more],
            cwd=Path(__file__).parents[3],
            env=ENVIRONMENT,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in jobs
        )
        self.seen: set[psutil.Process] = set()
        self.ports: set[int] = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.workers()
        for process in self.seen:
            if process.is_running():
                process.kill()
        self.process.kill()
        self.process.wait()
        self.log.close()

    def workers(self) -> list[psutil.Process]:
        """The processes that the launcher has started, in order."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            children = []
        for child in children:
            self.seen.add(child)
            with contextlib.suppress(psutil.Error, KeyError):
                cluster = json.loads(child.environ()["TF_CONFIG"])["cluster"]
                self.ports.update(int(place.split(":")[-1]) for place in cluster["worker"])
        return sorted(children, key=lambda child: child.pid)

    def text(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def wait_until(self, true: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            self.workers()
            time.sleep(0.02)

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Waits until a checkpoint of that step or a later one is there."""
        self.wait_until(lambda: any(saved >= step for saved in saved_steps(folder)), 300)

    def wait_for_workers(self) -> list[psutil.Process]:
        """Waits until the launcher has started both, which a run that goes on has yet to do."""
        self.wait_until(lambda: len(self.workers()) == 2 and bool(self.ports), 60)
        return self.workers()

    def finish(self, seconds: float = 600) -> int:
        self.workers()
        return self.process.wait(seconds)

    def assert_nothing_is_left(self) -> None:
        """No process of the run outlives it, and nobody listens at its workers' ports."""
        deadline = time.monotonic() + 30
        # A training alone may start a tool, but nothing that listens.
        assert bool(self.ports) == (self.launches and bool(self.seen))
        while self.ports & listening_ports() or any(map(is_alive, self.seen)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening_ports() -> set[int]:
    connections = psutil.net_connections("tcp")
    return {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}


def saved_steps(folder: Path) -> list[int]:
    return [
        int(re.findall(r"\d+", path.stem)[-1])
        for path in (folder / "checkpoints").glob("step-*.index")
    ]


def kill(command: Command, kind: str) -> None:
    if kind in ("worker", "chief"):
        command.wait_for_workers()[kind == "worker"].kill()
    else:
        command.process.kill()


def killed_and_finished(kind: str, folder: Path, kills: int, seed: int) -> None:
    """Trains to the end, killed some times, each at a random moment after some step."""
    draw = random.Random(seed)
    for step in sorted(draw.sample(range(4, STEPS - 8), kills)):
        with Command(kind, folder) as command:
            command.wait_for_step(folder, step)
            time.sleep(draw.uniform(0, 0.3))
            kill(command, kind)
            assert command.finish() != 0
            command.assert_nothing_is_left()
    with Command(kind, folder) as command:
        assert command.finish() == 0, command.text()
        command.assert_nothing_is_left()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs: on one device, on two of one process, and of two processes."""
    finished: dict[str, Path] = {}

    def run(kind: str) -> Path:
        kind = "chief" if kind == "worker" else kind
        if kind not in finished:
            folder = tmp_path_factory.mktemp(kind) / "run"
            with Command(kind, folder) as command:
                assert command.finish() == 0, command.text()
            finished[kind] = folder
        return finished[kind]

    return run


def assert_same_end(ours, theirs, tolerance):
    mine, other = weights(ours, STEPS), weights(theirs, STEPS)
    assert mine.keys() == other.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], other[name], 0, tolerance, err_msg=name)
    for a, b in zip(history(ours), history(theirs), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(
            list(a.values()), list(b.values()), rtol=tolerance, atol=tolerance
        )


# Its graphs are rewritten, or not, as those of this process, so that both compute the same bits.
PROGRAM = """
import tensorflow as tf
from training.cli import main
tf.config.optimizer.set_experimental_options({})
main()
"""


def test_a_killed_run_ends_as_one_left_alone(tmp_path):
    """It goes on in another process: this one, which imports no TensorFlow for it."""
    options, draw = tf.config.optimizer.get_experimental_options(), random.Random(os.getpid())
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with Command("single", killed, program=("-c", PROGRAM.format(options))) as command:
        command.wait_for_step(killed, draw.randrange(4, STEPS - 8))
        time.sleep(draw.uniform(0, 0.3))
        command.process.kill()
        assert command.finish() == -signal.SIGKILL, command.text()
        command.assert_nothing_is_left()
    assert not (killed / "metrics.json").exists()
    for folder in (killed, whole):
        result = invoke(*words_of("single", folder))
        assert result.exit_code == 0, result.output
        assert ("continues after step" in result.output) == (folder == killed)
    assert_same_end(killed, whole, 0)


@pytest.mark.soak
def test_runs_of_all_kinds_end_alike(whole):
    for kind in ("mirrored", "chief"):
        assert_same_end(whole(kind), whole("single"), 1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("kind", HOW)
def test_runs_killed_five_times(whole, tmp_path, kind):
    killed_and_finished(kind, tmp_path / "run", 5, seed=0)
    assert_same_end(tmp_path / "run", whole(kind), 0 if kind == "single" else 1e-6)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["worker", "chief"])
def test_a_worker_killed_as_it_starts_ends_the_run(tmp_path, kind):
    with Command(kind, tmp_path / "run") as command:
        kill(command, kind)
        assert command.finish() != 0
        command.assert_nothing_is_left()
        assert f"worker {int(kind == 'worker')} ended with signal 9" in command.text()


@pytest.mark.soak
def test_a_launcher_that_is_killed_takes_its_workers_along(tmp_path):
    with Command("chief", tmp_path / "run") as command:
        command.wait_for_step(tmp_path / "run", 4)
        assert len(command.workers()) == 2
        command.process.kill()
        command.finish()
        command.assert_nothing_is_left()


@pytest.mark.soak
@pytest.mark.parametrize("asked", ["launcher", "chief", "worker"])
def test_launched_workers_asked_to_end_save_and_go_on(whole, tmp_path, asked):
    with Command("chief", tmp_path / "run") as command:
        command.wait_for_step(tmp_path / "run", 8)
        workers = dict(zip(["chief", "worker"], command.wait_for_workers(), strict=True))
        workers.get(asked, command.process).send_signal(signal.SIGTERM)
        assert command.finish() == 0, command.text()
        command.assert_nothing_is_left()
        ends = re.findall(r"worker (\d)\] .*step (\d+) is saved; the same command", command.text())
    assert {index for index, _ in ends} == {"0", "1"}
    assert len({step for _, step in ends}) == 1
    assert int(ends[0][1]) == max(saved_steps(tmp_path / "run"))
    with Command("chief", tmp_path / "run") as command:
        assert command.finish() == 0, command.text()
    assert_same_end(tmp_path / "run", whole("chief"), 1e-6)


@pytest.mark.soak  # `test_crash` does so in this process, in every run
def test_an_interrupted_run_saves_and_ends_with_130(tmp_path):
    with Command("single", tmp_path / "run") as command:
        command.wait_for_step(tmp_path / "run", 4)
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == 130, command.text()
        text = command.text()
    found = re.search(r"asked to end: step (\d+) is saved; the same command", text)
    assert found, text
    assert int(found[1]) == max(saved_steps(tmp_path / "run"))
    assert "error: interrupted; give the same command again to go on\n" in text


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["single", "chief"])
def test_a_run_interrupted_twice_ends_at_once_and_goes_on(whole, tmp_path, kind):
    with Command(kind, tmp_path / "run", "--hang-timeout", "600") as command:
        command.wait_for_step(tmp_path / "run", 8)
        if kind == "chief":
            command.wait_for_workers()[1].send_signal(signal.SIGSTOP)  # from now on no step ends
        command.process.send_signal(signal.SIGINT)
        command.wait_until(lambda: "Ctrl-C again ends at once" in command.text(), 30)
        command.process.send_signal(signal.SIGINT)
        assert command.finish(30) in (-signal.SIGINT, 130)
        command.assert_nothing_is_left()
    with Command(kind, tmp_path / "run") as command:
        assert command.finish() == 0, command.text()
    assert_same_end(tmp_path / "run", whole(kind), 0 if kind == "single" else 1e-6)


@pytest.mark.soak
def test_interrupted_workers_save_and_end_with_130(tmp_path):
    with Command("chief", tmp_path / "run") as command:
        command.wait_for_step(tmp_path / "run", 8)
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == 130, command.text()
        command.assert_nothing_is_left()
        assert "is saved; the same command goes on" in command.text()


@pytest.mark.soak
def test_a_worker_that_hangs_is_noticed(tmp_path):
    with Command("worker", tmp_path / "run", "--hang-timeout", "20") as command:
        command.wait_for_step(tmp_path / "run", 8)
        command.workers()[1].send_signal(signal.SIGSTOP)
        assert command.finish(120) != 0
        # TensorFlow may notice first.
        message = "has waited 20 seconds for a step|has lost another worker"
        assert re.search(message, command.text()), command.text()
        command.assert_nothing_is_left()
