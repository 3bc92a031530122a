"""What models are made of, as values: the scales of a flow, from options declared once."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tf_iresnet.arguments import (
    check_choice,
    check_flag,
    check_integer,
    check_integers,
    check_widths,
    widths_of_scales,
)
from tf_iresnet.layers.actnorm import ActNorm
from tf_iresnet.layers.block_options import BlockOptions, BranchOptions, ResidualOptions
from tf_iresnet.layers.branch import Branch, SpectralBranch
from tf_iresnet.layers.densenet import DenseNetBranch
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.layers.whitening import Whitening
from tf_iresnet.log_det import Exact, LogDetEstimator, RussianRoulette
from tf_iresnet.options import Options, option

BRANCHES = ("resnet", "densenet")


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Args:
      scale: the number of its scale.
      index: its place in the scale.
      width: channels of its network.
      channels: those of its input.
      taps: pixels that the scale's squeeze has moved into channels; 1 without a squeeze.
      context_size: features of a context; None for none.
      densities: whether log-determinants are asked of it.
    """

    scale: int
    index: int
    width: int
    channels: int
    taps: int
    context_size: int | None = None
    densities: bool = True


@dataclass(frozen=True)
class Architecture(Options, abc.ABC):
    """What the scales of a flow are made of; a subclass defines the block.

    Args:
      blocks: how many blocks each scale has.
      hidden: channels of the networks, one number or one for each scale.

    Raises:
      ValueError: if an option is out of range.
    """

    blocks: Sequence[int]
    hidden: int | Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", check_integers("blocks", self.blocks, "scale"))
        hidden = check_widths(self.hidden, len(self.blocks))
        object.__setattr__(self, "hidden", hidden)
        super().__post_init__()

    @property
    def estimator(self) -> LogDetEstimator:
        """The estimator of log-determinants in evaluation."""
        return Exact()

    @abc.abstractmethod
    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        """Returns the layers of a block, from data to latent; the options are every layer's."""

    def opening(self, **options: Any) -> list[InvertibleLayer]:
        """Returns the layers at the start of a scale, after its squeeze."""
        return []

    def ending(self, width: int, channels: int, **options: Any) -> list[InvertibleLayer]:
        """Returns the layers at the end of a scale from which half of the channels leave."""
        return []

    def scales(
        self,
        event_shape: Sequence[int],
        *,
        factor_out: bool = False,
        squeeze_first: bool = True,
        context_size: int | None = None,
        densities: bool = True,
        **options: Any,
    ) -> list[InvertibleSequential]:
        """Returns the scales.

        Args:
          event_shape: of one example; each scale of images starts with a squeeze.
          factor_out: whether half of the channels leave after each scale but the last.
          squeeze_first: whether the first scale starts with a squeeze, as the others do.
          context_size: features of a context; None for none.
          densities: whether log-determinants are asked of the layers.
          **options: of every layer.

        Raises:
          ValueError: if the layers cannot be made.
        """
        channels, pixels = event_shape[-1], 2 ** (len(event_shape) - 1)
        scales, widths = [], widths_of_scales(self.hidden, len(self.blocks))  # type: ignore
        for number, (count, width) in enumerate(zip(self.blocks, widths, strict=True)):
            layers: list[InvertibleLayer] = []
            taps = pixels if number or squeeze_first else 1
            if taps > 1:
                layers.append(Squeeze(name="squeeze", **options))
                channels *= taps
            layers += self.opening(**options)
            for index in range(count):
                place = Place(number, index, width, channels, taps, context_size, densities)
                layers += self.block(place, **options)
            if factor_out and number + 1 < len(self.blocks):
                layers += self.ending(width, channels, **options)
                channels //= 2
            scales.append(InvertibleSequential(layers, name=f"scale_{number}", **options))
        return scales


@keras.saving.register_keras_serializable("tf_iresnet")
@dataclass(frozen=True)
class IResNet(Architecture, BlockOptions):
    """Invertible residual blocks, each after ActNorm.

    Args:
      blocks: residual blocks of each scale.
      hidden: channels inside the branches of "resnet", one number or one for each scale.
      branch: "resnet" (`SpectralBranch`) or "densenet" (`DenseNetBranch`).
      kernel_sizes: of the branches' convolutions, for "resnet".
      growth: channels that each dense layer of "densenet" appends.
      depth: dense layers of a branch, for "densenet".
      actnorm: whether ActNorm comes before each block.
      whitening: whether each scale's blocks start from uncorrelated channels (`Whitening`).

    Further options are those of `tf_iresnet.layers.block_options.BlockOptions`.

    Raises:
      ValueError: if an option is out of range.

    Example:
    >>> from tf_iresnet.models import IResNet
    >>> len(IResNet(blocks=(2, 3), hidden=8).scales((8, 8, 1)))
    2

    Source: Invertible Residual Networks, section 5; Residual Flows, section 4.
    """

    blocks: Sequence[int] = (8, 8)
    hidden: int | Sequence[int] = 96
    branch: str = option("resnet", lambda n, v: check_choice(n, v, BRANCHES), kw_only=True)
    kernel_sizes: Sequence[int] = option(
        (3, 1, 3), lambda n, v: check_integers(n, v, "linear layer"), kw_only=True
    )
    growth: int = option(64, lambda n, v: check_integer(n, v, 1), kw_only=True)
    depth: int = option(3, lambda n, v: check_integer(n, v, 1), kw_only=True)
    actnorm: bool = option(True, check_flag, kw_only=True)
    whitening: bool = option(False, check_flag, kw_only=True)

    @property
    def estimator(self) -> LogDetEstimator:
        return RussianRoulette(exact_terms=20, probability=0.1, control_variate=True)

    def opening(self, **options: Any) -> list[InvertibleLayer]:
        return [Whitening(name="whitening", **options)] if self.whitening else []

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        number = place.index
        norms = [ActNorm(name=f"actnorm_{number}", **options)] if self.actnorm else []
        # The branch gets its own options; of these the block needs coeff alone.
        own = {name: getattr(self, name) for name in (*ResidualOptions.names(), "coeff")}
        branch = self._branch(place, **options)
        return [*norms, InvertibleResidual(branch, **own, name=f"block_{number}", **options)]

    def _branch(self, place: Place, **options: Any) -> Branch:
        shared = {
            "options": self.part(BranchOptions),
            "context_size": place.context_size,
            "name": "branch",
            **options,
        }
        branch: Branch
        if self.branch == "densenet":
            branch = DenseNetBranch(self.growth, self.depth, **shared)
        else:
            # As in the paper, a classifier's very first block has no activation before it.
            first = not place.densities and place.scale == place.index == 0
            branch = SpectralBranch(
                place.width, self.kernel_sizes, input_activation=not first, **shared
            )
        if not place.densities:
            branch.passes = SpectralLayer.passes
        return branch
