"""What all settings have in common: their kinds of numbers, and that none is unknown."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from training.typing import JsonObject

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# TOML has no null: the word "none" stands for it.
none = BeforeValidator(lambda value: None if value in ("none", "None") else value)
OptionalShare = Annotated[Share | None, none]
# By name, since their own modules import TensorFlow.
Activation = Literal["elu", "lipswish", "clipswish", "softplus", "tanh", "maxmin"]
Augmentation = Literal["affine", "crop", "flip", "cutout"]


class Settings(BaseModel):
    """Settings that take no unknown names and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AnyFlow(Settings):
    """What all density models have in common."""

    preprocessing: Annotated[Literal["auto", "logit", "shift", "marginal"] | None, none] = "auto"
    alpha: Share = 1e-6
    factor_out: bool = False
    prior: Literal["learned", "standard"] = "learned"
    ema_momentum: OptionalShare = 0.999

    @property
    def measured_by(self) -> JsonObject:
        """How an evaluation finds log-determinants, as `metrics.json` says it."""
        return {"name": "exact"}
