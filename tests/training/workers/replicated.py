"""Training to compare on one device, two devices and two workers; a worker when run as a script."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.library import small_models as small
from tf_iresnet.log_det import PowerSeries, RussianRoulette
from training.baselines import Architecture, BaselineFlow, Glow
from training.baselines.autoregressive import MaskedAutoregressive
from training.baselines.continuous import ContinuousFlow
from training.baselines.resnet import ResNet
from training.data import Share, load_dataset, train_batches
from training.workers.devices import Devices, make_devices
from training.workers.signals import Request
from training.workers.votes import Vote

SIZES = [3, 8, 8, 7, 1, 8, 5, 2, 8, 8, 8, 1, 8, 6, 8, 8, 3, 8, 8, 4]  # of twenty batches
# Quick to trace, on every device; the terms of the series stay drawn.
BLOCK = {"blocks": (1,), "hidden": 4, "kernel_sizes": (3, 1), "ema_momentum": 0.9}


@dataclasses.dataclass(frozen=True)
class EveryLayer(Architecture):
    """One layer of each baseline, one after the other."""

    @property
    def estimator(self):
        return PowerSeries(terms=1)

    def block(self, place, **options):
        width = place.width
        *glow, coupling = Glow((1,), width).block(place, **options)
        # The steps are as long as all examples of a replica allow: a small error hides that.
        flow = ContinuousFlow(width, (3, 3), rtol=1e-9, atol=1e-9, **options)
        return [*glow, coupling, MaskedAutoregressive([width], **options), flow]


def baseline(devices: Devices, dtype: str):
    """A flow of every baseline's layers, on the batches of `flow`."""
    return flow(devices, dtype, EveryLayer((1,), 4))


def flow(devices: Devices, dtype: str, architecture: Architecture | None = None):
    """A flow on batches of all sizes, the first one small, in a plain `tf.data.Dataset`."""
    with devices.strategy.scope():
        if architecture is None:
            model = small.flow(**BLOCK, eval_log_det=RussianRoulette(), dtype=dtype)
        else:
            keras.utils.set_random_seed(0)
            options = {"levels": small.LEVELS, "ema_momentum": 0.9, "dtype": dtype}
            model = BaselineFlow(small.EVENT, architecture, **options)
        model.compile(keras.optimizers.Adam(0.02, global_clipnorm=0.3))
    starts = np.cumsum([0, *SIZES])
    x = small.pixels(sum(SIZES)).astype(dtype)
    slices = tf.data.Dataset.from_tensor_slices((starts[:-1], starts[1:]))
    data = slices.map(lambda a, b: tf.ensure_shape(tf.constant(x)[a:b], (None, 4, 4, 1)))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(options)
    return model, {"x": data, "validation_data": data.take(7)}


def classifier(devices: Devices, dtype: str, **optimizer):
    """A classifier on digits that are shifted, an odd number of them in each batch."""
    dataset = load_dataset("digits")

    def batches(share: Share) -> tf.data.Dataset:
        options = {"seed": 3, "task": "classification", "augment": ("crop",)}
        options["dtype"] = "float32" if dtype == "mixed_bfloat16" else dtype
        return train_batches(dataset, 9, share=share, **options)

    with devices.strategy.scope():
        model = small.classifier((8, 8, 1), 10, **BLOCK, dtype=dtype)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9, **optimizer),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model, {"x": devices.batches(batches), "steps_per_epoch": 20}


def hybrid(devices: Devices, dtype: str):
    """A hybrid on an odd number of dequantised digits in each batch."""
    dataset = load_dataset("digits")

    def batches(share: Share) -> tf.data.Dataset:
        return train_batches(dataset, 9, seed=3, task="hybrid", dtype=dtype, share=share)

    with devices.strategy.scope():
        model = small.hybrid(
            (8, 8, 1), 10, levels=17, **BLOCK, log_det=PowerSeries(terms=1), dtype=dtype
        )
        model.compile(keras.optimizers.Adam(0.02))
    return model, {"x": devices.batches(batches), "steps_per_epoch": 4}


def resnet(devices: Devices, dtype: str):
    """The baseline, on the classifier's data."""
    _, data = classifier(devices, dtype)
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = ResNet((8, 8, 1), 10, depth=8, width=4, unit="basic", dtype=dtype)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    return model, data | {"steps_per_epoch": 6}


KINDS = {
    "flow": flow,
    "classifier": classifier,
    "hybrid": hybrid,
    "resnet": resnet,
    "baseline": baseline,
}


def trained(devices: Devices, kind: str) -> dict[str, np.ndarray]:
    """All weights, optimizer states and results after twenty steps in float64."""
    keras.config.set_floatx("float64")
    try:
        model, data = KINDS[kind](devices, "float64")
        history = model.fit(**data, epochs=1, verbose=0, shuffle=False).history
    finally:
        keras.config.set_floatx("float32")
    state = {f"{i} {v.path}": v for i, v in enumerate([*model.weights, *model.optimizer.variables])}
    assert_replicas_agree(state)
    values = {name: np.asarray(tf.convert_to_tensor(v)) for name, v in state.items()}
    return values | {f"history {name}": np.asarray(v) for name, v in history.items()}


def gradients(devices: Devices, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The gradients of one step."""
    model, data = classifier(devices, dtype, global_clipnorm=0.1)
    model.fit(**data | {"steps_per_epoch": 1}, epochs=1, verbose=0, shuffle=False)
    # After one step the momentum is the gradient times the learning rate.
    return {v.path: np.asarray(tf.convert_to_tensor(v)) for v in model.optimizer.variables[2:]}


def end_of_training(devices: Devices) -> dict[str, np.ndarray]:
    """Votes after steps, of which the thirtieth is when the second worker is asked to end."""
    request = Request()
    vote = Vote(request, devices, seconds=0.1)
    vote.begin(0)
    for step in range(1, 1000):
        request.made = devices.worker == 1 and step >= 30
        time.sleep(0.002 if devices.is_chief else 0.004)
        if vote.after(step):
            break
    return {"step": np.asarray(step)}


def assert_replicas_agree(state):
    for name, variable in state.items():
        copies = [np.asarray(copy) for copy in getattr(variable.value, "values", ())]
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0], err_msg=name)


class Scalar(keras.Model):
    """A stock Keras model whose steps return a scalar."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 2))
        self.built = True

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        return {"loss": tf.constant(1.0)}


def stock_keras_fails() -> str:
    """What stock Keras says to a scalar loss of several workers; nothing where it works."""
    model = Scalar()
    model.compile(keras.optimizers.SGD())
    data = tf.data.Dataset.from_tensors(np.ones((4, 2), np.float32))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    try:
        model.fit(data.with_options(options), verbose=0)
    except Exception as error:  # whatever it is
        return f"{type(error).__name__}: {error}"
    return ""


def in_two_workers(
    folder: Path, kinds: Sequence[str], seconds: float = 600
) -> dict[str, dict[str, np.ndarray]]:
    """Runs this file in two processes, and gives what the first one found.

    Of each kind of training, or of the gradients in each dtype.
    """
    sockets = [socket.socket() for _ in range(2)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{item.getsockname()[1]}" for item in sockets]}
    for item in sockets:
        item.close()
    workers = []
    try:
        for index in range(2):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [
                sys.executable,
                "-m",
                "tests.training.workers.replicated",
                str(folder),
                *kinds,
            ]
            root = Path(__file__).parents[3]
            workers.append(subprocess.Popen(command, env=environment, cwd=root))
        for worker in workers:
            assert worker.wait(seconds) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in folder.glob("*.npz"):
        with np.load(path) as content:
            found[path.stem] = dict(content)
    return found


def main(folder: str, *kinds: str) -> None:
    if not os.environ.get("TEST_GRAPPLER"):  # as in the process that compares
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    devices = make_devices("multiworker")
    results = {}
    for kind in kinds:
        if kind in KINDS:
            results[kind] = trained(devices, kind)
        else:
            results[f"gradients {kind}"] = gradients(devices, kind)
    with devices.strategy.scope():
        results["stock"] = {"error": np.asarray(stock_keras_fails())}
    results["end"] = end_of_training(devices)
    np.savez(f"{folder}/end of {devices.worker}.npz", **results["end"])
    if devices.is_chief:
        for name, content in results.items():
            content = {key.replace("/", "|"): value for key, value in content.items()}
            np.savez(f"{folder}/{name}.npz", **content)


if __name__ == "__main__":
    main(*sys.argv[1:])
