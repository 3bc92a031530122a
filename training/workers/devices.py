"""The devices and processes that train one model together."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow as tf

from tf_iresnet import replicas
from training.data import Share
from training.errors import RunError

#: What `fit` reads, on one device or shared out.
FitData: TypeAlias = tf.data.Dataset | tf.distribute.DistributedDataset

# What TensorFlow raises when a worker has ended or does not answer.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


@dataclass(frozen=True)
class Devices:
    """A distribution strategy and this process' part in it.

    Args:
      strategy: the strategy.
      worker: the number of this process among the workers.
      workers: the number of processes.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """The number of copies of the model."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.worker == 0

    def batches(self, make: Callable[[Share], tf.data.Dataset]) -> FitData:
        """Makes a data set, for `fit`, of which every replica reads its own share.

        Args:
          make: makes the data set of a share.
        """
        if self.replicas == 1:
            return make(Share())

        def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = self.replicas // context.num_input_pipelines
            return make(Share(context.input_pipeline_id * local, local, self.replicas))

        return self.strategy.distribute_datasets_from_function(pipeline)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Says in one line that another worker is lost, where TensorFlow notices.

        Raises:
          RunError: if another worker has ended, or does not answer.
        """
        try:
            yield
        except _LOST as error:
            if self.workers == 1:
                raise
            raise RunError(
                f"worker {self.worker} has lost another worker ({type(error).__name__}), which "
                "has ended, hangs or is out of reach; end all workers and give the same command "
                "again"
            ) from error

    def summed(self, values: Sequence[float]) -> list[float]:
        """Adds up numbers over all replicas; every process has to call it.

        Args:
          values: this process' numbers, as many in every process. Sums of whole numbers are exact,
            and so the same in every process.

        Returns:
          Their sums, to which a process contributes once for each of its replicas.
        """
        local = tf.constant(values, tf.float64)
        sums = self.strategy.run(_sum(self.strategy), (local,))
        return [float(total) for total in self.strategy.experimental_local_results(sums)[0]]

    def check_same(self, name: str, value: int) -> None:
        """Refuses a number that is not the same in all processes.

        Args:
          name: what it is.
          value: this process' number.

        Raises:
          RunError: if another process has another one.
        """
        if self.workers == 1:
            return
        mean, square = (total / self.replicas for total in self.summed([value, value * value]))
        if square != mean * mean:
            raise RunError(
                f"worker {self.worker} has {name} {value} and others have not; give all of them "
                "the same command and a folder that they share as --out"
            )


def make_devices(kind: str = "none", logical_devices: int | None = None) -> Devices:
    """Prepares the devices, before TensorFlow computes anything.

    Args:
      kind: "none" for one device, "mirrored" for all local ones (the GPUs, where there are any), or
        "multiworker" for the processes that TF_CONFIG or Slurm names.
      logical_devices: into how many devices to split the processor.

    Raises:
      RunError: if they cannot be had.
    """
    if logical_devices is not None:
        if kind != "mirrored":
            raise RunError(
                f"--logical-devices {logical_devices} needs --strategy mirrored, not {kind}"
            )
        _split_processor(logical_devices)
    if kind == "none":
        return Devices(tf.distribute.get_strategy())
    if kind == "mirrored":
        # Named, since TensorFlow would else take the GPUs first.
        names = tuple(f"CPU:{i}" for i in range(logical_devices)) if logical_devices else None
        return Devices(_mirrored(names))
    return _workers()


@functools.cache
def _sum(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns what adds up numbers over a strategy's replicas, traced once for each strategy."""
    return tf.function(replicas.all_reduce_sum)


@functools.cache
def _mirrored(names: tuple[str, ...] | None) -> tf.distribute.MirroredStrategy:
    # One for all trainings of a process: each strategy numbers its sums from the same start, and
    # TensorFlow takes those of two on the same devices for one another.
    return tf.distribute.MirroredStrategy(names)


def _split_processor(count: int) -> None:
    if count < 1:
        raise RunError(f"--logical-devices {count} is too small; give 1 or more")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    except RuntimeError as error:
        raise RunError(f"--logical-devices {count}: {error}") from error


def _workers() -> Devices:
    if "TF_CONFIG" in os.environ:
        _check_cluster(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_STEP_NUM_TASKS" in os.environ:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
    else:
        raise RunError(
            "--strategy multiworker finds neither TF_CONFIG nor a Slurm step; use `python -m "
            "training launch`, srun, or set TF_CONFIG as docs/distributed.md says"
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    cluster = resolver.cluster_spec().as_dict()
    chiefs, workers = len(cluster.get("chief", ())), len(cluster.get("worker", ()))
    index = int(resolver.task_id or 0)
    if resolver.task_type == "worker":
        index += chiefs
    return Devices(strategy, index, chiefs + workers)


def _check_cluster(text: str) -> None:
    """Refuses a TF_CONFIG that TensorFlow would wait for or stumble over."""
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        hosts, index = cluster[task["type"]], int(task["index"])
        known = set(cluster) <= {"chief", "worker"}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"TF_CONFIG={text!r} cannot be read ({type(error).__name__}: {error}); write it as "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    if not known:
        kinds = ", ".join(sorted(cluster))
        raise RunError(f"TF_CONFIG has tasks of the kinds {kinds}; use only 'chief' and 'worker'")
    if not 0 <= index < len(hosts):
        raise RunError(
            f"TF_CONFIG has index {index}, but {len(hosts)} of {task['type']!r}; count from 0"
        )
