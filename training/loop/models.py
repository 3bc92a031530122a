"""From an experiment to a compiled Keras model."""

from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import log_det, models
from tf_iresnet.typing import Config
from training import baselines
from training.data import DataSpec
from training.errors import RunError
from training.experiments.baseline_settings import BaselineModel, Hutchinson
from training.experiments.config import (
    ClassifierExperiment,
    Cosine,
    ExactLogDet,
    Experiment,
    FlowExperiment,
    FlowModel,
    HybridExperiment,
    LogDet,
    Piecewise,
    Roulette,
)
from training.experiments.settings import AnyFlow
from training.loop.muon import LearningRate, Muon
from training.typing import Keywords

_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "muon": Muon,
    "sgd": keras.optimizers.SGD,
}

_CLASSIFIERS = {
    "iresnet": models.IResNetClassifier,
    "resnet": baselines.ResNet,
    "glow": baselines.GlowClassifier,
}


def build_model(experiment: Experiment, spec: DataSpec) -> keras.Model:
    """Builds and compiles an experiment's model; all variables exist, those of the optimizer, too.

    Args:
      experiment: the experiment.
      spec: the description of its data set.

    Raises:
      RunError: if the model cannot be built for this data set.
    """
    try:
        if isinstance(experiment, FlowExperiment):
            model = _flow(experiment, spec)
        elif isinstance(experiment, HybridExperiment):
            model = _hybrid(experiment, spec)
        else:
            model = _classifier(experiment, spec)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"no model for {spec.name!r} with these settings: {reason}") from error
    optimizer = _optimizer(experiment)
    if experiment.optimizer.weight_decay:
        others = [v for v in model.trainable_variables if v.path.split("/")[-1] != "kernel"]
        optimizer.exclude_from_weight_decay(var_list=others)
    optimizer.build(model.trainable_variables)
    if not isinstance(experiment, ClassifierExperiment):
        model.compile(optimizer=optimizer)
    else:
        loss = SmoothedCrossEntropy(experiment.label_smoothing)
        model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
        model.build_metrics(tf.zeros((1, *spec.event_shape)), tf.zeros((1,), tf.int32))
    return model


def parameter_count(model: keras.Model) -> int:
    """Counts a model's trainable parameters."""
    return sum(int(v.shape.num_elements()) for v in (w.value for w in model.trainable_variables))


@keras.saving.register_keras_serializable("training")
class SmoothedCrossEntropy(keras.losses.Loss):
    """The cross-entropy of logits and integer labels, of which all classes share `smoothing`."""

    def __init__(self, smoothing: float = 0.0, name: str = "cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), y_pred.shape[-1])
        return keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self) -> Config:
        return {**super().get_config(), "smoothing": self.smoothing}


def _density_arguments(experiment: Experiment, settings: FlowModel) -> Keywords:
    arguments = dict(settings)
    del arguments["architecture"]
    for name in ("log_det", "eval_log_det"):
        arguments[name] = _estimator(arguments[name])
    return {**arguments, "seed": experiment.seed, "dtype": experiment.precision}


def _flow(experiment: FlowExperiment, spec: DataSpec) -> keras.Model:
    if not isinstance(experiment.model, FlowModel):
        return _baseline(experiment, experiment.model, spec)
    arguments = _density_arguments(experiment, experiment.model)
    if experiment.context is not None:
        if spec.num_classes is None:
            raise ValueError('it has no classes for context="class"; leave that out')
        arguments["context_size"] = spec.num_classes
    return models.IResNetFlow(spec.event_shape, levels=spec.levels, **arguments)


def _hybrid(experiment: HybridExperiment, spec: DataSpec) -> keras.Model:
    arguments = _density_arguments(experiment, experiment.model)
    return models.IResNetHybrid(spec.event_shape, _classes(spec), levels=spec.levels, **arguments)


def _classes(spec: DataSpec) -> int:
    if spec.num_classes is None:
        raise ValueError("it has no labels; choose another data set")
    return spec.num_classes


def _baseline(
    experiment: FlowExperiment, settings: BaselineModel, spec: DataSpec
) -> baselines.BaselineFlow:
    common = {name: getattr(settings, name) for name in AnyFlow.model_fields}
    arguments = {name: value for name, value in settings if name not in common}
    kind = baselines.ARCHITECTURES[arguments.pop("architecture")]
    trace = arguments.pop("eval_log_det", None)
    hutchinson = isinstance(trace, Hutchinson)
    estimator = log_det.PowerSeries(1, probes=trace.probes) if hutchinson else log_det.Exact()
    return baselines.BaselineFlow(
        spec.event_shape,
        kind(**arguments),
        levels=spec.levels,
        eval_log_det=estimator,
        seed=experiment.seed,
        dtype=experiment.precision,
        **common,
    )


def _classifier(experiment: ClassifierExperiment, spec: DataSpec) -> keras.Model:
    settings = experiment.model
    kind = _CLASSIFIERS[settings.architecture]
    arguments = settings.model_dump(exclude={"architecture"})
    return kind(spec.event_shape, _classes(spec), dtype=experiment.precision, **arguments)


def _estimator(settings: LogDet) -> log_det.LogDetEstimator:
    arguments = settings.model_dump(exclude={"name"})
    if isinstance(settings, Roulette):
        return log_det.RussianRoulette(**arguments)
    if isinstance(settings, ExactLogDet):
        return log_det.Exact(**arguments)
    return log_det.PowerSeries(**arguments)


def _optimizer(experiment: Experiment) -> keras.optimizers.Optimizer:
    settings = experiment.optimizer
    arguments: Keywords = {
        "learning_rate": _schedule(experiment),
        "weight_decay": settings.weight_decay or None,
        "global_clipnorm": settings.clipnorm,
        "gradient_accumulation_steps": settings.accumulate if settings.accumulate > 1 else None,
    }
    if settings.name in ("muon", "sgd"):
        arguments["momentum"] = settings.momentum
    if settings.name == "sgd":
        arguments["nesterov"] = settings.nesterov
    return _OPTIMIZERS[settings.name](**arguments)


def _schedule(experiment: Experiment) -> LearningRate:
    rate, schedule = experiment.optimizer.learning_rate, experiment.schedule
    if isinstance(schedule, Cosine):
        warmup = schedule.warmup_steps
        return keras.optimizers.schedules.CosineDecay(
            rate / warmup if warmup else rate,
            experiment.steps - warmup,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    if isinstance(schedule, Piecewise):
        values = [rate * schedule.factor**drop for drop in range(len(schedule.boundaries) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(list(schedule.boundaries), values)
    return rate
