"""Two workers of one core each against one process of two cores; writes scaling.json beside this.

    python -m benchmarks.scaling [--steps 20] [--batch 64]

The model is the reference step's: eight blocks on 16x16x12, 128 hidden channels. Everything is
measured with `fit`: the step, the input pipeline alone, and the bare sum of the gradients over
the workers. `extrapolated` is what docs/scaling.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BANDWIDTHS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "NVLink, 300 GB/s": 3e11}
LATENCY = 20e-6  # seconds of one message; an assumption
GPU_SPEEDUP = 40.0  # of one GPU over these two cores; an assumption


def worker(kind: str, cores: list[int], steps: int, batch: int, quick: bool) -> dict[str, Any]:
    """Trains, and returns what was measured in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    import keras
    import numpy as np
    import tensorflow as tf

    from tf_iresnet import replicas
    from tf_iresnet.models import IResNetFlow
    from training.data import Arrays, Dataset, DataSpec, Share, SplitRange, train_batches
    from training.workers.devices import make_devices

    tf.config.threading.set_intra_op_parallelism_threads(len(cores))
    devices = make_devices(kind)
    shape, blocks, hidden = ((8, 8, 3), 1, 8) if quick else ((32, 32, 3), 8, 128)
    count = 256 if quick else 10_000
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    splits = {name: SplitRange("all", 0, count) for name in ("train", "validation", "test")}
    dataset = Dataset(DataSpec("noise", shape, 256, None, splits), lambda _: Arrays(images, None))

    def batches(share: Share) -> tf.data.Dataset:
        return train_batches(dataset, batch, seed=0, task="density", share=share)

    with devices.strategy.scope():
        model = IResNetFlow(shape, blocks=(blocks,), hidden=hidden, actnorm=False, prior="standard")
        model.compile(keras.optimizers.Adam(1e-4))
    times: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, step: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_train_batch_end(self, step: int, logs: Any = None) -> None:
            float(tf.convert_to_tensor(model.step_counters)[0])  # waits for the step
            times.append(time.perf_counter() - self.began)

    data = devices.batches(batches)
    warm = max(3, steps // 4)
    model.fit(data, steps_per_epoch=steps + warm, verbose=0, shuffle=False, callbacks=[Clock()])

    iterator = iter(data)
    next(iterator)
    began = time.process_time()
    for _ in range(10 * steps):
        next(iterator)
    reading = (time.process_time() - began) / (10 * steps)

    sizes = [tuple(v.shape) for v in model.trainable_variables]

    @tf.function
    def message() -> Any:
        return devices.strategy.run(lambda: replicas.all_reduce_sum([tf.ones(s) for s in sizes]))

    message()
    began = time.perf_counter()
    for _ in range(steps):
        message()
    summing = (time.perf_counter() - began) / steps
    return {
        "step_seconds": statistics.median(times[warm:]),
        "step_seconds_range": [min(times[warm:]), max(times[warm:])],
        "input_cpu_seconds": reading,
        "sum_seconds": summing,
        "message_bytes": 4 * sum(int(np.prod(s)) for s in sizes),
        "messages": len(sizes),
    }


def run(kind: str, cores: list[list[int]], arguments: list[str]) -> list[dict[str, Any]]:
    """Starts one process for each list of cores, and returns what they found."""
    sockets = [socket.socket() for _ in cores]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{item.getsockname()[1]}" for item in sockets]
    for item in sockets:
        item.close()
    children = []
    try:
        for index, own in enumerate(cores):
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(task)}
            environment.pop("TF_NUM_INTEROP_THREADS", None)
            for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
                environment[name] = str(len(own))
            words = ["--role", kind, "--cores", ",".join(map(str, own)), *arguments]
            command = [sys.executable, "-m", "benchmarks.scaling", *words]
            children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
        answers = [child.communicate()[0].decode().splitlines()[-1] for child in children]
        return [json.loads(answer) for answer in answers]
    finally:
        for child in children:
            child.kill()
            child.wait()


def extrapolated(one: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The efficiency of n GPUs, each with the batch of the one that was measured.

    A ring sends 2 (n - 1) / n times the gradients' bytes and 2 (n - 1) messages.
    """
    compute = one["step_seconds"] / GPU_SPEEDUP
    return {
        name: {
            str(n): compute
            / (compute + 2 * (n - 1) / n * one["message_bytes"] / bandwidth + 2 * (n - 1) * LATENCY)
            for n in (8, 64)
        }
        for name, bandwidth in BANDWIDTHS.items()
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="a tiny model; writes no file")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--cores", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        cores = [int(core) for core in given.cores.split(",")]
        print(json.dumps(worker(given.role, cores, given.steps, given.batch, given.quick)))
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    passed = ["--steps", str(given.steps), "--batch", str(given.batch)]
    passed += ["--quick"] if given.quick else []
    load = os.getloadavg()[0]
    one = run("none", [cores], passed)[0]
    two = run("multiworker", [[core] for core in cores], passed)
    slower = max(item["step_seconds"] for item in two)
    results = {
        "load_before": load,
        "one_process_two_cores": one,
        "two_workers_one_core": two,
        "efficiency": one["step_seconds"] / slower,
        "input_share": one["input_cpu_seconds"] / one["step_seconds"],
        "extrapolated_efficiency": extrapolated(one),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if not given.quick:
        (HERE / "scaling.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
