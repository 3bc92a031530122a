"""What an experiment is: every setting that its result depends on, checked when it is read."""

import itertools
import json
from typing import Annotated, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from training.errors import RunError
from training.experiments.baseline_settings import BaselineModel
from training.experiments.refusals import Refusal, refusals, shown
from training.experiments.settings import (
    Activation,
    AnyFlow,
    Augmentation,
    Count,
    Counts,
    NotNegative,
    OptionalShare,
    Positive,
    Settings,
    Share,
    none,
)
from training.typing import Json, JsonObject, RawSettings


class Roulette(Settings):
    """An unbiased log-determinant: `tf_iresnet.log_det.RussianRoulette`."""

    name: Literal["russian_roulette"] = "russian_roulette"
    exact_terms: Annotated[int, Field(ge=0)] = 2
    distribution: Literal["geometric", "poisson"] = "geometric"
    probability: Share = 0.5
    rate: Positive = 2.0
    probes: Count = 1
    probe_distribution: Literal["rademacher", "gaussian"] = "rademacher"
    control_variate: bool = False


class Series(Settings):
    """A truncated log-determinant: `tf_iresnet.log_det.PowerSeries`."""

    name: Literal["power_series"] = "power_series"
    terms: Count = 10
    probes: Count = 1
    probe_distribution: Literal["rademacher", "gaussian"] = "rademacher"
    control_variate: bool = False


class ExactLogDet(Settings):
    """The log-determinant itself: `tf_iresnet.log_det.Exact`."""

    name: Literal["exact"] = "exact"
    rows: Count = 16


LogDet = Annotated[Roulette | Series | ExactLogDet, Field(discriminator="name")]


class Blocks(Settings):
    """The options of `tf_iresnet.models.architecture.IResNet`, without the estimator."""

    architecture: Literal["iresnet"] = "iresnet"
    blocks: Counts = (8, 8)
    branch: Literal["resnet", "densenet"] = "resnet"
    hidden: Count | Counts = 96
    kernel_sizes: Counts = (3, 1, 3)
    growth: Count = 64
    depth: Count = 3
    coeff: OptionalShare = 0.98
    activation: Activation = "lipswish"
    actnorm: bool = True
    whitening: bool = False
    power_iterations: Count = 4
    recompute: bool = False
    normalization: Literal["auto", "bound", "power_iteration"] = "auto"
    kernel_initializer: Literal["delta_orthogonal", "glorot_uniform"] = "glorot_uniform"
    use_bias: bool = True


class FlowModel(Blocks, AnyFlow):
    """The arguments of `tf_iresnet.models.IResNetFlow` that the data set does not give."""

    log_det: LogDet = Roulette()
    eval_log_det: LogDet = Roulette(exact_terms=20, probability=0.1, control_variate=True)

    @property
    def measured_by(self) -> JsonObject:
        """How an evaluation finds log-determinants, as `metrics.json` says it."""
        return self.eval_log_det.model_dump(mode="json")


AnyFlowModel = Annotated[FlowModel | BaselineModel, Field(discriminator="architecture")]


class HybridModel(FlowModel):
    """The arguments of `tf_iresnet.models.IResNetHybrid` that the data set does not give."""

    classification_weight: Positive = 1.0  # of the cross-entropy in nats, beside bits/dim
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head_width: Count = 64


class ClassifierModel(Blocks):
    """The arguments of `tf_iresnet.models.IResNetClassifier` that the data set does not give."""

    blocks: Counts = (7, 7, 7)
    hidden: Count | Counts = (32, 64, 128)
    padding: Annotated[int, Field(ge=0)] = 3
    squeeze_first: bool = False
    coeff: OptionalShare = 0.9
    activation: Activation = "elu"
    ema_momentum: OptionalShare = 0.999


class ResNetModel(Settings):
    """The arguments of `training.baselines.ResNet` that the data set does not give."""

    architecture: Literal["resnet"] = "resnet"
    depth: Count = 164
    width: Count = 16
    unit: Literal["bottleneck", "basic"] = "bottleneck"
    ema_momentum: OptionalShare = 0.999


class GlowClassifierModel(Settings):
    """The arguments of `training.baselines.GlowClassifier` that the data set does not give."""

    architecture: Literal["glow"] = "glow"
    blocks: Counts = (6, 6, 6)
    hidden: Count | Counts = 64
    kernel_sizes: Counts = (3, 1, 3)
    coupling: Literal["affine", "additive"] = "affine"
    ema_momentum: OptionalShare = 0.999


AnyClassifierModel = Annotated[
    ClassifierModel | ResNetModel | GlowClassifierModel, Field(discriminator="architecture")
]


class Optimizer(Settings):
    """One of Keras' optimizers, or `training.loop.muon.Muon`.

    `momentum` is that of "sgd" and of "muon", and `nesterov` of "sgd" ("muon" always has it).
    `weight_decay` is Keras' own, decoupled from the gradient, and applies to kernels. An L2 term of
    strength w inside SGD with momentum m corresponds to about w / (1 - m) of it.
    """

    name: Literal["adam", "adamax", "adamw", "muon", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    clipnorm: Annotated[Positive | None, none] = None
    accumulate: Count = 1  # batches whose gradients' mean makes one update


class Cosine(Settings):
    """A linear rise, then half a cosine down to zero at the last step."""

    name: Literal["cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class Piecewise(Settings):
    """A drop by `factor` after each of the steps `boundaries`."""

    name: Literal["piecewise"] = "piecewise"
    boundaries: Counts
    factor: Share = 0.2

    @field_validator("boundaries")
    @classmethod
    def _increase(cls, boundaries: tuple[int, ...]) -> tuple[int, ...]:
        if any(late <= early for early, late in itertools.pairwise(boundaries)):
            raise ValueError("give steps that increase")
        return boundaries


class Constant(Settings):
    """The same learning rate throughout."""

    name: Literal["constant"] = "constant"


Schedule = Annotated[Cosine | Piecewise | Constant, Field(discriminator="name")]


class _Experiment(Settings):
    name: str
    description: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    steps: Count
    batch_size: Count
    augment: tuple[Augmentation, ...] = ()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Constant()
    interval: Count = 500  # steps between checkpoints, each with a look at the validation set
    validation_images: Annotated[Count | None, none] = None  # none for all of them
    eval_batch_size: Count = 100
    precision: Literal["float32", "float64", "mixed_bfloat16"] = "float32"
    bad_steps: Count = 10  # so many steps in a row without a finite loss end training

    @model_validator(mode="after")
    def _fits(self) -> "_Experiment":
        if isinstance(self.schedule, Cosine) and self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps={self.schedule.warmup_steps} leaves nothing of "
                f"steps={self.steps}; lower it"
            )
        if self.optimizer.accumulate > self.steps:
            raise ValueError(
                f"optimizer.accumulate={self.optimizer.accumulate} makes no update in "
                f"steps={self.steps}; lower it"
            )
        return self

    @property
    def can_be_extended(self) -> bool:
        """Whether more steps leave the steps before them as they were."""
        return not isinstance(self.schedule, Cosine)


class FlowExperiment(_Experiment):
    """A density model, of x alone or of x given its class."""

    task: Literal["flow"] = "flow"
    context: Annotated[Literal["class"] | None, none] = None
    model: AnyFlowModel = FlowModel()

    @model_validator(mode="after")
    def _takes_contexts(self) -> "FlowExperiment":
        if self.context is not None and not isinstance(self.model, FlowModel):
            raise ValueError(
                f"context={self.context!r} needs model.architecture='iresnet', got "
                f"{self.model.architecture!r}; leave context out"
            )
        return self

    @property
    def data_task(self) -> str:
        """What the batches of `training.data` are for."""
        return "density" if self.context is None else "conditional"


class ClassifierExperiment(_Experiment):
    """A classifier."""

    task: Literal["classifier"] = "classifier"
    model: AnyClassifierModel = ClassifierModel()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def data_task(self) -> str:
        """What the batches of `training.data` are for."""
        return "classification"


class HybridExperiment(_Experiment):
    """A density model of x that classifies x as well."""

    task: Literal["hybrid"] = "hybrid"
    model: HybridModel = HybridModel()

    @property
    def data_task(self) -> str:
        """What the batches of `training.data` are for."""
        return "hybrid"


Experiment = FlowExperiment | ClassifierExperiment | HybridExperiment
_EXPERIMENT: TypeAdapter[Experiment] = TypeAdapter(
    Annotated[Experiment, Field(discriminator="task")]
)


def parse_experiment(settings: RawSettings) -> Experiment:
    """Checks settings and completes them by the defaults.

    Args:
      settings: as read from TOML or JSON.

    Raises:
      RunError: if a setting is unknown, missing or out of range; the message names it.
    """
    try:
        # As JSON, which is strict: "3" and true are no numbers, and a list may be a tuple.
        return _EXPERIMENT.validate_json(json.dumps(_named(settings), default=str), strict=True)
    except ValidationError as error:
        raise RunError("; ".join(map(_explain, refusals(_EXPERIMENT, error)))) from error


def parse_recorded(settings: RawSettings) -> Experiment:
    """Reads the settings that a run has written down.

    Args:
      settings: as in `config.json`. Where those of an i-ResNet name no `normalization`, it is
        "power_iteration".

    Raises:
      RunError: as `parse_experiment` does.
    """
    model = settings.get("model") if isinstance(settings, dict) else None
    if isinstance(model, dict) and "power_iterations" in model:
        settings = {**settings, "model": {"normalization": "power_iteration", **model}}
    return parse_experiment(settings)


def _named(settings: Json) -> Json:
    """Names the architecture "iresnet" where the settings of a model name none."""
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict):
        return settings
    return {**settings, "model": {"architecture": "iresnet", **model}}


def _explain(refusal: Refusal) -> str:
    place, value, remedy = refusal.place, refusal.value, refusal.remedy
    if refusal.problem == "unknown":
        return f"setting {place!r} does not exist; {remedy}"
    if refusal.problem == "missing":
        return f"setting {place!r} is missing; give {remedy}"
    if refusal.problem == "rule":
        return f"setting {place}={shown(value)} cannot be used: {remedy}" if place else remedy
    return f"setting {place or 'EXPERIMENT'}={shown(value)} cannot be used: give {remedy}"
