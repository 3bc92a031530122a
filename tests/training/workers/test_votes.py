"""When several processes end: after the same step, soon after one of them is asked to."""

import threading

import pytest
import tensorflow as tf

from training.workers.devices import Devices
from training.workers.signals import Request
from training.workers.votes import Vote

pytestmark = pytest.mark.quick


class Together:
    """Stands in for the devices of processes that are threads here; counts their sums."""

    def __init__(self, workers):
        self.workers = workers
        self.sums = 0
        self._barrier = threading.Barrier(workers, timeout=20)
        self._given = []

    @property
    def replicas(self):
        return self.workers

    def summed(self, values):
        self._given.append(values)
        if self._barrier.wait() == 0:
            assert len(self._given) == self.workers  # nobody votes where others go on
            self.total = [sum(column) for column in zip(*self._given, strict=True)]
            self._given = []
            self.sums += 1
        self._barrier.wait()
        return self.total


class Steps:
    """One process' steps, on a clock of its own that starts anywhere."""

    def __init__(self, together, start, lengths, asked_at, steps, speed=1.0):
        self.now, self._lengths, self._asked_at, self._steps = start, lengths, asked_at, steps
        self._speed = speed
        self.request = Request()
        self.vote = Vote(self.request, together, clock=lambda: self.now)
        self.end = None

    def run(self):
        self.vote.begin(0)
        for step in range(1, self._steps + 1):
            self.now += self._speed * self._lengths(step)
            self.request.made = self._asked_at is not None and step >= self._asked_at
            if self.vote.after(step):
                self.end = step
                return


def run(together, processes):
    threads = [threading.Thread(target=process.run, daemon=True) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def lengths(step):
    """Thirty seconds of tracing, steps of 10 ms, and once a validation of 20 s."""
    return 30.0 if step == 1 else 20.0 if step == 1500 else 0.01


@pytest.mark.parametrize("asked_at", [1, 2, 700, 1500, 2000])
def test_all_end_after_the_same_step_within_about_a_second(asked_at):
    together = Together(3)
    processes = [
        Steps(together, 5.0, lengths, None, 3000),
        Steps(together, -70.0, lengths, asked_at, 3000, speed=1.1),  # its clock runs fast
        Steps(together, 1e6, lengths, None, 3000, speed=0.9),
    ]
    run(together, processes)
    ends = {process.end for process in processes}
    assert len(ends) == 1
    assert asked_at <= ends.pop() <= asked_at + 101


def test_votes_come_about_once_a_second():
    together = Together(2)
    processes = [Steps(together, 0.0, lengths, None, 1000) for _ in range(2)]
    run(together, processes)
    assert [process.end for process in processes] == [None, None]
    assert 10 <= together.sums <= 20  # of ten seconds of steps


def test_votes_follow_steps_that_get_slower():
    together = Together(2)

    def slower(step):
        return 0.01 if step < 500 else 2.0

    processes = [Steps(together, 0.0, slower, asked, 800) for asked in (700, None)]
    run(together, processes)
    assert [process.end for process in processes] == [700, 700]  # they vote after every step


def test_one_process_alone_ends_as_soon_as_it_is_asked_to():
    request = Request()
    vote = Vote(request, Devices(tf.distribute.get_strategy()))
    vote.begin(0)
    assert not vote.after(1)
    request.made = True
    assert vote.ends  # without a step between, as at the end of an epoch
    assert vote.after(2)
