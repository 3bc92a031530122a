"""What the files of a run must hold for others to read them; more may stand there."""

import itertools
import math
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from training.errors import RunError
from training.experiments.refusals import Refusal, refusals, shown
from training.runs.files import read_json
from training.typing import Json, JsonObject

_Number = Annotated[float, Field(allow_inf_nan=False)]
_OrNull = _Number | None  # null stands for a number that was not finite
_Whole = Annotated[int, Field(ge=0)]
_T = TypeVar("_T")


class _Noted(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Reconstruction(_Noted):
    images: _Whole
    not_converged: _Whole
    largest_error: _OrNull


class _Views(_Noted):
    count: _Whole
    split: str
    images: _Whole
    error_percent: _Number


class _Against(_Noted):
    experiment: str
    standard_error: _OrNull


class _Metrics(_Noted):
    """`metrics.json` of a run that was trained, or measured in some way."""

    experiment: str | None = None
    command: str | None = None
    seed: _Whole | None = None
    steps: _Whole | None = None
    cpu_seconds: _OrNull = None
    parameters: _Whole | None = None
    split: str | None = None
    images: _Whole | None = None
    bits_per_dim: _OrNull = None
    standard_error: _OrNull = None
    error_percent: _OrNull = None
    log_prob: _OrNull = None
    log_det: JsonObject | None = None
    certified_lipschitz: _OrNull = None
    validation: dict[str, _OrNull] | None = None
    versions: dict[str, str] | None = None
    reconstruction: _Reconstruction | None = None
    views: _Views | None = None
    against: _Against | None = None

    @model_validator(mode="after")
    def _say_of_what(self) -> "_Metrics":
        measured = {"bits_per_dim", "error_percent"} & self.model_fields_set
        if measured and (self.split is None or self.images is None):
            raise ValueError(f"{min(measured)!r} stands there without 'split' and 'images'")
        return self


class _Finished(_Metrics):
    """`metrics.json` of a run that tables are made from."""

    experiment: str
    command: str
    seed: _Whole
    steps: _Whole
    cpu_seconds: _Number
    parameters: _Whole
    bits_per_dim: _Number = math.nan  # where it is not measured
    error_percent: _Number = math.nan


class _Interval(_Noted):
    """What `history.json` says of an interval between two checkpoints."""

    __pydantic_extra__: dict[str, _OrNull]
    step: Annotated[int, Field(ge=1)]
    cpu_seconds: Annotated[_Number, Field(ge=0)]


def _in_order(intervals: list[_Interval]) -> list[_Interval]:
    if any(late.step <= early.step for early, late in itertools.pairwise(intervals)):
        raise ValueError("the steps do not increase")
    return intervals


METRICS: TypeAdapter[_Metrics] = TypeAdapter(_Metrics)
FINISHED: TypeAdapter[_Finished] = TypeAdapter(_Finished)
HISTORY: TypeAdapter[list[_Interval]] = TypeAdapter(
    Annotated[list[_Interval], AfterValidator(_in_order)]
)


def read_content(path: Path, kind: TypeAdapter[_T]) -> Json:
    """Reads a file and refuses one that is damaged or of another shape.

    Args:
      path: the file.
      kind: `METRICS`, `FINISHED` or `HISTORY`.

    Returns:
      What it holds, as it stands there.

    Raises:
      RunError: if it cannot be read, or something is missing or of another kind.
    """
    content = read_json(path)
    try:
        kind.validate_python(content, strict=True)
    except ValidationError as error:
        problem = _explain(refusals(kind, error)[0])
        raise RunError(
            f"{str(path)!r} is damaged: {problem}; restore it, or move it away"
        ) from error
    return content


def _explain(refusal: Refusal) -> str:
    place = repr(refusal.place) if refusal.place else "the whole"
    if refusal.problem == "missing":
        return f"{place} is missing"
    if refusal.problem == "rule":
        return refusal.remedy
    return f"{place} is {shown(refusal.value)}, where {refusal.remedy} belongs"
