"""The layers of a flow, from its model's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tf_iresnet.layers.actnorm import ActNorm
from tf_iresnet.layers.branch import Branch, SpectralBranch
from tf_iresnet.layers.densenet import DenseNetBranch
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.models.arguments import widths_of_scales
from tf_iresnet.models.gaussianization import MarginalGaussianization
from tf_iresnet.models.preprocessing import ImagePreprocessing

if TYPE_CHECKING:
    from tf_iresnet.models.flow import IResNetFlow

BRANCHES = ("resnet", "densenet")


def flow_layers(model: IResNetFlow) -> list[InvertibleLayer]:
    """Returns preprocessing, where there is one, and the scales of blocks.

    Args:
      model: a flow whose arguments are set.

    Raises:
      ValueError: if an argument is out of range.
    """
    policy = model.dtype_policy
    widths = widths_of_scales(model.hidden, len(model.blocks))
    scales = []
    for index, (count, width) in enumerate(zip(model.blocks, widths, strict=True)):
        layers: list[InvertibleLayer] = []
        if len(model.event_shape) > 1:
            layers.append(Squeeze(dtype=policy, name="squeeze"))
        for block in range(count):
            if model.actnorm:
                layers.append(ActNorm(dtype=policy, name=f"actnorm_{block}"))
            layers.append(
                InvertibleResidual(
                    _branch(model, width),
                    coeff=model.coeff,
                    log_det=model.log_det,
                    solver=model.solver,
                    recompute=model.recompute,
                    dtype=policy,
                    name=f"block_{block}",
                )
            )
        scales.append(InvertibleSequential(layers, dtype=policy, name=f"scale_{index}"))
    layers = [MultiScale(scales, model.factor_out, dtype=policy, name="scales")]
    if model.preprocessing == "marginal" and model.levels is not None:
        layers.insert(0, MarginalGaussianization(model.levels, model.alpha, dtype=policy))
    elif model.preprocessing is not None and model.levels is not None:
        layers.insert(
            0,
            ImagePreprocessing(
                model.levels, model.preprocessing, model.alpha, dtype=policy, name="preprocessing"
            ),
        )
    return layers


def _branch(model: IResNetFlow, width: int) -> Branch:
    options: dict[str, Any] = {
        "coeff": model.coeff,
        "activation": model.activation,
        "power_iterations": model.power_iterations,
        "normalization": model.normalization,
        "context_size": model.context_size,
        "name": "branch",
        "dtype": model.dtype_policy,
    }
    if model.branch == "densenet":
        return DenseNetBranch(model.growth, model.depth, **options)
    return SpectralBranch(width, model.kernel_sizes, **options)
