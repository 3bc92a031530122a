"""A run's model with its averaged weights, and everything needed to use it."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import keras
import tensorflow as tf

from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.invertible_model import InvertibleModel
from training.data import Dataset, load_dataset
from training.errors import RunError
from training.experiments.config import ClassifierExperiment, Experiment, FlowExperiment
from training.loop.models import build_model
from training.runs.checkpoints import Checkpoints, check_settings
from training.runs.files import Writer
from training.runs.run import Run
from training.typing import PathLike, Results

#: Bits/dim [batch] of a seed, x [batch, ...] and the contexts, if there are any.
BitsPerDim: TypeAlias = Callable[..., tf.Tensor]


@dataclass(frozen=True)
class Finished:
    """A run together with its model.

    Args:
      run: the folder.
      experiment: what it holds.
      dataset: the experiment's data set.
      model: the model, with averaged weights.
      step: the number of steps it was trained for.
    """

    run: Run
    experiment: Experiment
    dataset: Dataset
    model: keras.Model
    step: int

    @property
    def is_flow(self) -> bool:
        """Whether the model has a density."""
        return not isinstance(self.experiment, ClassifierExperiment)

    @property
    def is_classifier(self) -> bool:
        """Whether the model has logits; a hybrid has both."""
        return not isinstance(self.experiment, FlowExperiment)

    @property
    def is_conditional(self) -> bool:
        """Whether the model has a density for each class."""
        return isinstance(self.experiment, FlowExperiment) and self.experiment.context is not None

    @property
    def is_baseline(self) -> bool:
        """Whether the model is a baseline, of which no Lipschitz constant is known."""
        return self.experiment.model.architecture != "iresnet"

    @property
    def span(self) -> float:
        """The range of the values that the model reads: a flow's levels of a pixel, else 1."""
        return float(self.dataset.spec.levels or 1) if self.is_flow else 1.0

    @property
    def input_specs(self) -> list[tf.TensorSpec]:
        """What the model reads: x and, if the flow is conditional, the context."""
        shapes = [self.dataset.spec.event_shape]
        if self.is_conditional:
            shapes.append((self.dataset.spec.classes,))
        return [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]

    @functools.cached_property
    def bits_per_dim(self) -> BitsPerDim:
        """The model's bits/dim as its evaluation finds them, compiled; for densities alone."""
        return self.bits_per_dim_by(None)

    def bits_per_dim_by(self, log_det: LogDetEstimator | None) -> BitsPerDim:
        """Compiles the model's bits/dim.

        Args:
          log_det: replaces the estimator of the model's evaluation; None for that.
        """
        return tf.function(
            lambda seed, x, *context: self.model.bits_per_dim(x, seed, log_det, *context),
            input_signature=[tf.TensorSpec([3], tf.int32), *self.input_specs],
            autograph=False,
        )

    def check_density(self) -> None:
        """Refuses a model that has no density.

        Raises:
          RunError: if it has none.
        """
        if not self.is_flow:
            raise RunError(
                f"{self.experiment.name} is a classifier, which has no density; give a flow's "
                "folder"
            )

    def check_invertible(self) -> None:
        """Refuses a model that has no inverse.

        Raises:
          RunError: if it has none.
        """
        if not isinstance(self.model, InvertibleModel):
            raise RunError(
                f"{self.experiment.name} is a {type(self.model).__name__}, which has no inverse; "
                "give the folder of an invertible network"
            )

    def metrics(self) -> Results:
        """Returns what `metrics.json` says of these weights; nothing if it is of others."""
        held = self.run.metrics()
        return held if held.get("steps") == self.step else {}

    def add_metrics(self, values: Results, files: Mapping[Path, Writer] | None = None) -> Results:
        """Adds results to `metrics.json`, and drops there what is of other weights.

        Args:
          values: the new results.
          files: what goes with them: all of it is written, or nothing.

        Returns:
          All results.
        """
        metrics = {**self.metrics(), "steps": self.step, **values}
        self.run.write_metrics(metrics, files)
        return metrics


def open_finished(folder: PathLike, data_dir: PathLike | None = None) -> Finished:
    """Loads a run's last checkpoint for use, whether or not its training has ended.

    Args:
      folder: the run's folder.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.

    Raises:
      RunError: if it is no run's folder, a file in it is damaged, it has no checkpoint that can be
        read, or its weights were trained with other settings than it says.
      DataError: if the data set cannot be had.
    """
    run = Run(folder)
    experiment = run.experiment()
    run.check_notes()
    if not run.checkpoints.is_dir():
        raise RunError(_untrained(folder))
    check_settings(run.checkpoints, experiment)  # before the model is made
    dataset = load_dataset(experiment.dataset, data_dir)
    model = build_model(experiment, dataset.spec)
    step = Checkpoints(run.checkpoints, experiment, model).restore()
    if step is None:
        raise RunError(_untrained(folder))
    model.use_averaged_weights()
    return Finished(run, experiment, dataset, model, step)


def _untrained(folder: PathLike) -> str:
    return (
        f"{str(folder)!r} has no checkpoint yet; give its `python -m training train` command "
        "again and wait for the first one"
    )
