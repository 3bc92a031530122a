"""Keras models that are put together: layers, an objective, the steps and an average."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import keras_private, replicas
from tf_iresnet.arguments import check_real
from tf_iresnet.autograph import AsWritten
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.models.training import files, replicated
from tf_iresnet.models.training.averaging import WeightAverage
from tf_iresnet.models.training.events import Event
from tf_iresnet.models.training.intake import Intake
from tf_iresnet.models.training.loop import Loop, StepFunction
from tf_iresnet.models.training.objective import Objective
from tf_iresnet.typing import ArrayLike, BatchLike, Config, Data, Inputs, Logs, Scores, Shape


class Model(AsWritten, keras_private.BuiltModel):
    """Base of all models: Keras' methods, which delegate to the objective, the intake and the loop.

    A subclass makes its layers and calls `_compose` with its objective. Keras' loops then honour or
    refuse their arguments, on any number of replicas. Evaluation uses an exponential moving average
    of the weights, if there is one. A step whose loss or gradient is not finite is skipped. The
    logs of every training loop count such steps as ``skipped_steps``, and metrics are NaN if every
    step was skipped.

    Attributes:
      event_shape: the shape of one example.
      objective: what the model is trained for.
      average: the moving average, or None.
      max_skipped_steps: how many skipped steps in a row end training with a `SkippedStepsError`;
        None for no end.
    """

    event_shape: tuple[int, ...]
    max_skipped_steps: int | None = 20
    objective: Objective
    train_function: StepFunction
    test_function: StepFunction

    def __init__(self, ema_momentum: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_policy(self)
        self.autocast = False
        if ema_momentum is not None:
            due = "must lie in (0, 1), or be None for no average"
            ema_momentum = check_real("ema_momentum", ema_momentum, due, lambda v: 0 < v < 1)
        self.ema_momentum = ema_momentum
        self.average: WeightAverage | None = None
        if ema_momentum is not None:
            self.average = WeightAverage(ema_momentum, name="average")

    def _compose(self, objective: Objective) -> None:
        """Puts the model together, once every weight exists."""
        # All variables that training can ever move, whatever is frozen now. They stand in a
        # closure, since Keras takes a list on the model for weights of the model.
        averaged = [variable for variable in self.variables if variable.trainable]
        self.__dict__["_averaged_variables"] = lambda: averaged
        if self.average is not None:
            self.average.build_for(averaged)
        self.objective = objective
        self._intake, self._loop = Intake(objective), Loop(self, objective)
        self.built = True

    def build(self, input_shape: Shape = None) -> None:
        """Does nothing: the model is built when it is made."""

    @property
    def _event(self) -> Event:
        return self.objective.event

    # --- what follows the weights, or comes from data ---

    @property
    def initialized(self) -> bool:
        """Whether every layer that starts from data has seen some."""
        return True

    @property
    def derived_state(self) -> list[tf.Variable]:
        """Variables that depend on the weights, and on their own earlier values."""
        return []

    def _prepare_fit(
        self,
        x: Data | None,
        y: ArrayLike | None,
        batch_size: int | None,
        share: float,
        steps: int | None,
    ) -> Data | None:
        """Does what comes before the first step of `fit`.

        Args:
          x: as in `fit`.
          y: as in `fit`.
          batch_size: as in `fit`.
          share: of the rows of arrays, from the first on, that are trained on.
          steps: how many batches will be drawn; None for all.

        Returns:
          Data with the same batches as x.
        """
        return x

    def prepare_averages(self) -> Callable[[], None]:
        """Returns a function that starts averages of weights which a step sets from data.

        This is called before the step, the function after it.
        """
        return lambda: None

    # --- averaged weights ---

    def _shadowed(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a shadow and its variable."""
        if self.average is not None:
            yield from zip(self.average.shadows, self._averaged_variables(), strict=True)

    def update_average(self) -> None:
        """Moves the average, if there is one, towards the weights."""
        if self.average is not None:
            self.average.update(self._averaged_variables())

    def use_averaged_weights(self) -> None:
        """Makes the moving average the weights, for good."""
        average = self.average
        if average is not None and int(tf.convert_to_tensor(average.count)) > 0:
            for shadow, variable in self._shadowed():
                variable.assign(shadow)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Makes the moving average the weights inside the context; restores them afterwards."""
        state = [*self._averaged_variables(), *self.derived_state]
        saved = [tf.identity(tf.convert_to_tensor(variable)) for variable in state]
        try:
            self.use_averaged_weights()
            yield
        finally:
            for variable, value in zip(state, saved, strict=True):
                variable.assign(value)

    # --- Keras' loops ---

    def compile(
        self,
        optimizer: str | Config | keras.optimizers.Optimizer = "rmsprop",
        loss: object = None,
        loss_weights: object = None,
        metrics: object = None,
        weighted_metrics: object = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
          optimizer: as for `keras.Model.compile`.
          loss: None where the model has its own, as densities do; else of logits and labels.
          loss_weights: as loss.
          metrics: as loss.
          weighted_metrics: as loss.
          **kwargs: as for `keras.Model.compile`.

        Raises:
          ValueError: if the model has a loss and metrics of its own and there are others.
        """
        options = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        self.objective.check_compiled(options)
        super().compile(optimizer, **options, **kwargs)

    def compile_from_config(self, config: Config) -> None:
        """Compiles a loaded model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Data | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Data | BatchLike | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: ArrayLike | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on examples that may have weights.

        Args:
          x: as for `keras.Model.fit`: an array, or batches of x, (x, y) or (x, y, weights).
          y: what the model reads beside x.
          batch_size: of arrays.
          epochs: as for `keras.Model.fit`.
          verbose: as for `keras.Model.fit`.
          callbacks: as for `keras.Model.fit`.
          validation_split: as for `keras.Model.fit`.
          validation_data: as x, or a tuple of arrays.
          shuffle: as for `keras.Model.fit`.
          class_weight: a weight for each class, where there are labels.
          sample_weight: a weight of at least 0 for each example, [n].
          **kwargs: of `keras.Model.fit`.

        Raises:
          ValueError: if an argument cannot be used; the message names it.
          SkippedStepsError: if ``max_skipped_steps`` steps in a row were skipped.
        """
        self._intake.check_class_weight(class_weight)
        x, y, sample_weight = self._intake.take(x, y, sample_weight)
        validation_data = self._intake.check_validation(validation_data)
        steps = kwargs.get("steps_per_epoch")
        steps = steps and steps * (epochs - kwargs.get("initial_epoch", 0))
        x = self._prepare_fit(x, y, batch_size, 1 - (validation_split or 0.0), steps)
        self._loop.watch.begin()
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(
        self,
        x: Data | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: ArrayLike | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Evaluates as `keras.Model.evaluate` does, with the averaged weights."""
        if not kwargs.get("_use_cached_eval_dataset"):  # which `fit` has checked
            x, y, sample_weight = self._intake.take(x, y, sample_weight)
        with self.averaged_weights():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def predict(self, x: Data, *args: Any, **kwargs: Any) -> np.ndarray:
        """Returns what the call gives of each batch, as `keras.Model.predict` does."""
        self._intake.check_inputs(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Scores:
        """Makes one step, as `keras.Model.train_on_batch` does."""
        self._intake.check_class_weight(class_weight)
        x, y, sample_weight = self._intake.take(x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        return_dict: bool = False,
    ) -> Scores:
        """Measures one batch, as `keras.Model.test_on_batch` does."""
        x, y, sample_weight = self._intake.take(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict)

    # --- steps ---

    def inputs_of(self, data: BatchLike) -> Inputs:
        """Returns the parts of a batch of `fit` that the model is called with, by keyword.

        Raises:
          ValueError: if the batch has another structure; the message says how to change it.
        """
        return self.objective.inputs_of(data)

    def train_step(self, data: BatchLike) -> Logs:
        """Makes one step on the mean loss of the global batch, if that is finite."""
        return self._loop.train_step(data)

    def test_step(self, data: BatchLike) -> Logs:
        """Measures one batch."""
        return self._loop.test_step(data)

    def predict_step(self, data: BatchLike) -> tf.Tensor:
        """Calls the model with what it reads of a batch."""
        return self(**self.inputs_of(data), training=False)

    def make_train_function(self, force: bool = False) -> StepFunction:
        """Makes the function that Keras' loops call for training steps; it raises findings."""
        if self.train_function is None or force:
            if self.optimizer is not None and not self.optimizer.built:
                # A graph that makes the optimizer's variables is traced twice.
                with self.distribute_strategy.scope():
                    self.optimizer.build(self.trainable_variables)
            super().make_train_function(force)
            self.train_function = self._loop.raising_findings(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False) -> StepFunction:
        """Makes the function that Keras' loops call for evaluation steps; it raises findings."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._loop.raising_findings(self.test_function)
        return self.test_function

    @property
    def steps_taken(self) -> keras.Variable:
        """The number of training steps; with accumulated gradients several make one update."""
        return keras_private.steps_of(self.optimizer)

    @property
    def step_counters(self) -> tf.Variable:
        """How many training steps were skipped, in all and in a row, int64 [2]."""
        return self._loop.watch.counters

    # --- metrics ---

    @property
    def loss_metric(self) -> keras.metrics.Metric:
        """The mean that the loops show as ``loss``; there once the model is compiled."""
        return keras_private.loss_metric(self)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        objective = self.__dict__.get("objective")
        own = None if objective is None else objective.metrics
        if own is None:
            return super().metrics
        return [*([self.loss_metric] if self.compiled else []), *own]

    def reset_metrics(self) -> None:
        """Starts to measure anew, as Keras does at the start of an epoch."""
        super().reset_metrics()
        self._loop.watch.reset()

    def get_metrics_result(self) -> Logs:
        """Returns the metrics so far, by name; NaN if they have seen nothing."""
        values = [tf.convert_to_tensor(v) for v in self.metrics_variables]
        return replicated.results(self.metrics, self.loss_metric, values)

    def logs(self, **more: tf.Tensor) -> Logs:
        """Returns the metrics of all replicas so far, as a step gives them to Keras' loops.

        Args:
          **more: scalars to show beside them, the same on every replica.
        """
        values = replicas.all_reduce_sum([tf.convert_to_tensor(v) for v in self.metrics_variables])
        found = replicated.results(self.metrics, self.loss_metric, values)
        return replicated.as_logs({**found, **more}, self.distribute_strategy)

    # --- files ---

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes the model and its training as `keras.Model.save` does, to a ``.keras`` file.

        Raises:
          ValueError: for a file of HDF5, Keras' older format.
        """
        files.check_no_legacy_file(self, filepath)
        super().save(filepath, *args, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: object = None,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel by `tf_iresnet.export.export_saved_model`, with its signatures.

        Args:
          filepath: the folder to make.
          format: "tf_saved_model", which is all that there is.
          verbose: whether to say where it was written.
          input_signature: None, since the signatures are those of `export_saved_model`.
          **kwargs: further arguments of `export_saved_model`.

        Raises:
          ValueError: if an argument is none of these, or ``filepath`` exists.
        """
        files.export(self, filepath, format, verbose, input_signature=input_signature, **kwargs)

    def get_config(self) -> Config:
        """Returns the constructor's arguments that all models have; subclasses add theirs."""
        files.check_no_legacy_file(self)
        config = super().get_config()
        kept = {key: config[key] for key in ("name", "dtype", "trainable") if key in config}
        return {**kept, "event_shape": self.event_shape, "ema_momentum": self.ema_momentum}
