"""Which devices a command gets, and what is refused before any work."""

import json

import pytest
import tensorflow as tf

from tests.training.commands import invoke, refused
from training.errors import RunError
from training.workers.devices import Devices, make_devices
from training.workers.watchdog import Watchdog

pytestmark = pytest.mark.quick


def test_one_device_unless_asked_for_more():
    devices = make_devices()
    assert (devices.replicas, devices.workers, devices.is_chief) == (1, 1, True)


def test_trainings_of_one_process_share_a_strategy():
    # TensorFlow mixes up the sums of two that were made for the same devices.
    first, second = make_devices("mirrored", 2), make_devices("mirrored", 2)
    assert first.replicas == 2
    assert first.strategy is second.strategy


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read .KeyError: 'cluster'"),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}, "'chief'"),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}},
            "index 1, but 1",
        ),
        (
            {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}},
            "use only 'chief' and 'worker'",
        ),
    ],
)
def test_a_cluster_that_would_never_meet_is_refused(monkeypatch, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(RunError, match=message):
        make_devices("multiworker")


def test_several_workers_need_a_cluster(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match="neither TF_CONFIG nor a Slurm step"):
        make_devices("multiworker")


def test_wrong_options_are_refused_in_one_line(tmp_path):
    train = ("train", "digits_flow", "--out", tmp_path / "out")
    assert "needs --strategy mirrored" in refused(*train, "--logical-devices", 2)
    assert "is too small" in refused(*train, "--strategy", "mirrored", "--logical-devices", 0)
    assert "'--strategy'" in refused(*train, "--strategy", "all")
    assert "--workers 0 is too small" in refused("launch", "--workers", 0, *train[1:])
    assert "leave out --strategy" in refused(
        "launch", "--workers", 2, *train[1:], "--strategy", "mirrored"
    )
    assert "Missing option '--out'" in refused("launch", "--workers", 2, "digits_flow")
    assert not (tmp_path / "out").exists()
    assert "--hang-timeout" in invoke("train", "--help").output


def test_more_devices_than_examples_are_refused(tmp_path):
    from tests.training.tiny_runs import TINY
    from training.experiments.catalog import load_experiment
    from training.loop.train import train

    devices = Devices(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    experiment = load_experiment("digits_flow", [*TINY, "batch_size=1"], steps=2)
    with pytest.raises(RunError, match="batch_size=1 is too small for 2 devices"):
        train(experiment, tmp_path / "out", devices=devices)


def test_the_watchdog_waits_for_steps_and_not_for_their_tracing(monkeypatch, capfd):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    monkeypatch.setattr("training.workers.watchdog.os._exit", end)
    watchdog = Watchdog(0.05, worker=3)
    clock = iter([0.0, 0.01, 0.02, 1.0])
    monkeypatch.setattr("training.workers.watchdog.time.monotonic", lambda: next(clock))
    watchdog.on_test_begin()
    looks = iter([False, True])
    monkeypatch.setattr(watchdog._ended, "wait", lambda _: next(looks))
    watchdog._watch()  # no step was seen yet: it says nothing
    watchdog.on_train_batch_end(0)
    looks = iter([False, False, False])
    monkeypatch.setattr(watchdog._ended, "wait", lambda _: next(looks))
    with pytest.raises(Ended, match="75"):
        watchdog._watch()
    assert "worker 3 has waited 0.05 seconds for a step" in capfd.readouterr().err
