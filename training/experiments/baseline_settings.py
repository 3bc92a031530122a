"""The settings of the baselines: arguments of `training.baselines.BaselineFlow`."""

from typing import Annotated, Literal

from pydantic import Field

from training.experiments.settings import AnyFlow, Count, Counts, Positive, Settings
from training.typing import JsonObject


class Hutchinson(Settings):
    """An unbiased estimate of the traces along the path."""

    name: Literal["hutchinson"] = "hutchinson"
    probes: Count = 1


class ExactTrace(Settings):
    """The traces themselves: d products for d dimensions at each evaluation."""

    name: Literal["exact"] = "exact"


class NICEModel(AnyFlow):
    """A flow of `training.baselines.NICE`."""

    architecture: Literal["nice"]
    blocks: Counts = (8, 8)
    hidden: Count | Counts = 64
    kernel_sizes: Counts = (3, 1, 3)


class RealNVPModel(AnyFlow):
    """A flow of `training.baselines.RealNVP`."""

    architecture: Literal["realnvp"]
    blocks: Counts = (8, 8)
    hidden: Count | Counts = 64
    kernel_sizes: Counts = (3, 1, 3)


class GlowModel(AnyFlow):
    """A flow of `training.baselines.Glow`."""

    architecture: Literal["glow"]
    blocks: Counts = (8, 8)
    hidden: Count | Counts = 64
    kernel_sizes: Counts = (3, 1, 3)
    coupling: Literal["affine", "additive"] = "affine"


class FFJORDModel(AnyFlow):
    """A flow of `training.baselines.FFJORD`."""

    architecture: Literal["ffjord"]
    blocks: Counts = (1, 1)
    hidden: Count | Counts = 64
    kernel_sizes: Counts = (3, 3, 3)
    steps: Count = 2  # of the solver in training
    rtol: Positive = 1e-4  # of the solver in everything else
    atol: Positive = 1e-4
    probes: Count = 1
    eval_log_det: Annotated[Hutchinson | ExactTrace, Field(discriminator="name")] = Hutchinson()

    @property
    def measured_by(self) -> JsonObject:
        """How an evaluation finds log-determinants, as `metrics.json` says it."""
        estimate = self.eval_log_det.model_dump(mode="json")
        return {**estimate, "solver": "dormand_prince", "rtol": self.rtol, "atol": self.atol}


class MAFModel(AnyFlow):
    """A flow of `training.baselines.MAF`."""

    architecture: Literal["maf"]
    blocks: Counts = (2,)
    hidden: Count | Counts = 64
    depth: Count = 1
    kernel_sizes: Counts | None = None


BaselineModel = NICEModel | RealNVPModel | GlowModel | FFJORDModel | MAFModel
