"""The layers of a model, from its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_iresnet.arguments import widths_of_scales
from tf_iresnet.layers.actnorm import ActNorm
from tf_iresnet.layers.branch import Branch, SpectralBranch
from tf_iresnet.layers.densenet import DenseNetBranch
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.layers.whitening import Whitening

if TYPE_CHECKING:
    from tf_iresnet.models.flow import IResNetFlow

BRANCHES = ("resnet", "densenet")


def flow_scales(model: IResNetFlow) -> list[InvertibleSequential]:
    """Returns the scales of blocks.

    Args:
      model: a flow whose arguments are set.

    Raises:
      ValueError: if an argument is out of range.
    """
    widths = widths_of_scales(model.hidden, len(model.blocks))
    return [
        scale_of_blocks(
            model,
            index,
            [_branch(model, width) for _ in range(count)],
            squeeze=len(model.event_shape) > 1,
            log_det=model.log_det,
        )
        for index, (count, width) in enumerate(zip(model.blocks, widths, strict=True))
    ]


def scale_of_blocks(
    model: Any, index: int, branches: Sequence[Branch], squeeze: bool, **options: Any
) -> InvertibleSequential:
    """Returns a squeeze and whitening, where wanted, and residual blocks, each after ActNorm.

    Args:
      model: a model whose arguments are set.
      index: the number of the scale.
      branches: those of its blocks.
      squeeze: whether space is turned into channels first.
      **options: of `InvertibleResidual`, beside what all models say.
    """
    policy = model.dtype_policy
    layers: list[InvertibleLayer] = []
    if squeeze:
        layers.append(Squeeze(dtype=policy, name="squeeze"))
    if model.whitening:
        layers.append(Whitening(dtype=policy, name="whitening"))
    for number, branch in enumerate(branches):
        if model.actnorm:
            layers.append(ActNorm(dtype=policy, name=f"actnorm_{number}"))
        layers.append(
            InvertibleResidual(
                branch,
                coeff=model.coeff,
                solver=model.solver,
                recompute=model.recompute,
                dtype=policy,
                name=f"block_{number}",
                **options,
            )
        )
    return InvertibleSequential(layers, dtype=policy, name=f"scale_{index}")


def branch_options(model: Any) -> dict[str, Any]:
    """Returns the arguments that the branches of all models share."""
    return {
        "coeff": model.coeff,
        "activation": model.activation,
        "power_iterations": model.power_iterations,
        "normalization": model.normalization,
        "kernel_initializer": model.kernel_initializer,
        "name": "branch",
        "dtype": model.dtype_policy,
    }


def _branch(model: IResNetFlow, width: int) -> Branch:
    options = {**branch_options(model), "context_size": model.context_size}
    if model.branch == "densenet":
        return DenseNetBranch(model.growth, model.depth, **options)
    return SpectralBranch(width, model.kernel_sizes, **options)
