"""What residual blocks are made of: every option of theirs, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_iresnet.arguments import (
    check_choice,
    check_flag,
    check_instance,
    check_integer,
)
from tf_iresnet.fixed_point import Picard, Solver
from tf_iresnet.initializers import check_name
from tf_iresnet.layers.activations import ACTIVATIONS, Activation, make_activation
from tf_iresnet.layers.spectral import NORMALIZATIONS, SpectralLayer, check_coeff
from tf_iresnet.layers.spectral_conv import SpectralConv1D, SpectralConv2D, SpectralConv3D
from tf_iresnet.layers.spectral_dense import SpectralDense
from tf_iresnet.log_det import LogDetEstimator, RussianRoulette
from tf_iresnet.options import Options, option

_CONVOLUTIONS = {3: SpectralConv1D, 4: SpectralConv2D, 5: SpectralConv3D}


def _estimator(name: str, value: LogDetEstimator | None) -> LogDetEstimator:
    value = RussianRoulette() if value is None else value
    return check_instance(name, value, LogDetEstimator, "Exact()")


def _solver(name: str, value: Solver | None) -> Solver:
    return check_instance(name, Picard() if value is None else value, Solver, "Picard()")


@dataclass(frozen=True, kw_only=True)
class BranchOptions(Options):
    """The options of residual branches, and the layers that they stand for.

    Args:
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint, by which nothing
        proves that a block is invertible.
      activation: "lipswish", "clipswish" (doubles the channels that the next linear layer reads),
        "elu", "softplus", "tanh" or "maxmin".
      power_iterations: of each spectral layer, see `SpectralDense`.
      normalization: "bound" for blocks that are proven to be invertible in every call,
        "power_iteration" for estimated norms, "auto" for the bound where it costs at most 5 % of a
        training step.
      kernel_initializer: of each linear layer, by name: "delta_orthogonal", which starts with all
        that the bound allows (`tf_iresnet.initializers`), or one of Keras'.
      use_bias: whether linear layers have a learned bias. Without one, and with an activation that
        keeps zero, a branch maps zero to zero; the linear function of a context stays.

    Raises:
      ValueError: if an option is out of range.

    Example:
    >>> from tf_iresnet.layers.block_options import BranchOptions
    >>> BranchOptions(coeff=0.5).linear(rank=2, units=4, taps=1).coeff
    0.5
    """

    coeff: float | None = option(0.9, lambda _, value: check_coeff(value))
    activation: str = option("lipswish", lambda n, value: check_choice(n, value, ACTIVATIONS))
    power_iterations: int = option(4, lambda n, value: check_integer(n, value, 1))
    normalization: str = option("auto", lambda n, value: check_choice(n, value, NORMALIZATIONS))
    kernel_initializer: str = option("glorot_uniform", lambda _, value: check_name(value))
    use_bias: bool = option(True, check_flag)

    def linear(self, rank: int, units: int, taps: int, **kwargs: Any) -> SpectralLayer:
        """Returns a dense layer for inputs of rank 2, a convolution for more axes.

        Args:
          rank: the number of the input's axes, the batch among them.
          units: channels of the output.
          taps: of a convolution along each axis.
          **kwargs: of the layer.

        Raises:
          ValueError: if there are fewer axes than 2, or more than 5.
        """
        kwargs |= {
            "coeff": self.coeff,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "kernel_initializer": self.kernel_initializer,
            "use_bias": self.use_bias,
        }
        if rank == 2:
            return SpectralDense(units, **kwargs)
        if rank not in _CONVOLUTIONS:
            raise ValueError(f"a branch needs inputs of 2 to 5 axes, got {rank}.")
        return _CONVOLUTIONS[rank](units, taps, **kwargs)

    def activation_layer(self, **kwargs: Any) -> Activation:
        """Returns a new activation layer; keywords are those of the layer."""
        return make_activation(self.activation, **kwargs)


@dataclass(frozen=True, kw_only=True)
class ResidualOptions(Options):
    """The options of what a residual block does with its branch.

    Args:
      log_det: the estimator; by default `RussianRoulette(exact_terms=2)`.
      solver: of the inverse; by default `Picard()`.
      recompute: whether training keeps only the block's input for the backward pass, and computes
        the branch a second time there: less memory, more time.

    Raises:
      ValueError: if an option is out of range.

    Example:
    >>> from tf_iresnet.layers.block_options import ResidualOptions
    >>> ResidualOptions(recompute=True).solver.max_steps > 0
    True
    """

    log_det: LogDetEstimator | None = option(None, _estimator)
    solver: Solver | None = option(None, _solver)
    recompute: bool = option(False, check_flag)


@dataclass(frozen=True, kw_only=True)
class BlockOptions(BranchOptions, ResidualOptions):
    """The options of a residual block: those of its branch, and its own.

    Raises:
      ValueError: if an option is out of range.

    Example:
    >>> from tf_iresnet.layers.block_options import BlockOptions
    >>> BlockOptions(activation="elu", recompute=True).coeff
    0.9
    """
