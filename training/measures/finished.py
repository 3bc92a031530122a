"""A run's model as its averaged weights define it, with everything needed to use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from tf_iresnet.models.invertible_model import InvertibleModel
from training.data import Dataset, load_dataset
from training.errors import RunError
from training.experiments.config import ClassifierExperiment, Experiment, FlowExperiment
from training.loop.models import build_model
from training.runs.checkpoints import Checkpoints, check_settings
from training.runs.files import Writer
from training.runs.run import Run
from training.typing import PathLike, Results


@dataclass(frozen=True)
class Finished:
    """A run together with its model.

    Args:
      run: the folder.
      experiment: what it holds.
      dataset: the experiment's data set.
      model: the model, with averaged weights and a converged spectral state.
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
        """Whether the model is one to compare with, of which no Lipschitz constant is known."""
        return self.experiment.model.architecture != "iresnet"

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
        """Returns what `metrics.json` says of these weights; results of others are left out."""
        held = self.run.metrics()
        return held if held.get("steps") == self.step else {}

    def add_metrics(self, values: Results, files: Mapping[Path, Writer] | None = None) -> Results:
        """Adds results to `metrics.json`, where results of other weights are dropped.

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

    Returns:
      The run with its model.

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
    check_settings(run.checkpoints, experiment)  # before a model is made of others
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
