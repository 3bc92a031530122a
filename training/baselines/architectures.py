"""The baselines' architectures: which layers make a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tf_iresnet.arguments import (
    check_choice,
    check_integer,
    check_integers,
    check_real,
)
from tf_iresnet.layers import ActNorm, InvertibleLayer
from tf_iresnet.log_det import LogDetEstimator, PowerSeries
from tf_iresnet.models.architecture import Architecture, Place
from tf_iresnet.options import option
from training.baselines.autoregressive import MaskedAutoregressive
from training.baselines.continuous import ContinuousFlow
from training.baselines.coupling import Coupling
from training.baselines.linear import InvertibleLinear


def _sizes(name: str, value: object) -> tuple[int, ...]:
    return check_integers(name, value, "layer of a network")


def _tolerance(name: str, value: object) -> float:
    return check_real(name, value, "must be a number above 0", lambda number: number > 0)


@dataclass(frozen=True)
class _Convolutional(Architecture):
    kernel_sizes: Sequence[int] = option((3, 1, 3), _sizes)


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class NICE(_Convolutional):
    """Additive couplings alone; the prior's learned scales stand for the paper's last layer.

    Args:
      blocks: couplings of each scale.
      hidden: channels of the networks.
      kernel_sizes: of the networks' layers.
    """

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        masked = alternating(place.index, place.channels, place.taps)
        return [Coupling(masked, place.width, self.kernel_sizes, "none", **options)]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class RealNVP(_Convolutional):
    """Affine couplings, each after ActNorm, which stands for the paper's batch normalisation.

    Args:
      blocks: couplings of each scale.
      hidden: channels of the networks.
      kernel_sizes: of the networks' layers.
    """

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        masked = alternating(place.index, place.channels, place.taps)
        return [
            ActNorm(**options),
            Coupling(masked, place.width, self.kernel_sizes, "tanh", **options),
        ]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class Glow(_Convolutional):
    """Steps of ActNorm, an invertible 1x1 convolution and a coupling.

    Where half of the channels leave, one more affine coupling models them as a normal whose mean
    and scale are functions of the channels that stay.

    Args:
      blocks: steps of each scale.
      hidden: channels of the networks.
      kernel_sizes: of the networks' layers.
      coupling: "affine" or "additive".
    """

    coupling: str = option("affine", lambda n, v: check_choice(n, v, ("affine", "additive")))

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        scale = "sigmoid" if self.coupling == "affine" else "none"
        masked = range(place.channels // 2)
        return [
            ActNorm(**options),
            InvertibleLinear(**options),
            Coupling(masked, place.width, self.kernel_sizes, scale, **options),
        ]

    def ending(self, width: int, channels: int, **options: Any) -> list[InvertibleLayer]:
        return [Coupling(range(channels // 2), width, self.kernel_sizes, "sigmoid", **options)]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class FFJORD(_Convolutional):
    """Continuous flows, one after the other.

    Args:
      blocks: flows of each scale.
      hidden: channels of the networks.
      kernel_sizes: of the networks' layers.
      steps: of the solver in training.
      rtol: relative tolerance of the solver in everything else.
      atol: absolute tolerance of the solver in everything else.
      probes: of Hutchinson's estimate of a trace.
    """

    kernel_sizes: Sequence[int] = option((3, 3, 3), _sizes)
    steps: int = option(2, lambda n, v: check_integer(n, v, 1))
    rtol: float = option(1e-4, _tolerance)
    atol: float = option(1e-4, _tolerance)
    probes: int = option(1, lambda n, v: check_integer(n, v, 1))

    @property
    def estimator(self) -> LogDetEstimator:
        return PowerSeries(terms=1, probes=self.probes)

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        solver = (self.steps, self.rtol, self.atol)
        return [ContinuousFlow(place.width, self.kernel_sizes, *solver, self.estimator, **options)]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class MAF(Architecture):
    """Masked autoregressive layers in alternating order, each after ActNorm.

    A sample takes as many evaluations of each network as there are dimensions.

    Args:
      blocks: autoregressive layers of each scale.
      hidden: width of the networks' hidden layers.
      depth: how many hidden layers a dense network has; 1 for a convolutional one.
      kernel_sizes: of masked convolutions, odd; None for dense networks.
    """

    depth: int = option(1, lambda n, v: check_integer(n, v, 1))
    kernel_sizes: Sequence[int] | None = option(None, lambda n, v: v and _sizes(n, v))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_sizes is not None and self.depth != 1:
            raise ValueError(
                "depth is of dense networks, that of convolutions the number of kernel_sizes: "
                f"leave out one of depth={self.depth} and kernel_sizes={self.kernel_sizes}."
            )

    def block(self, place: Place, **options: Any) -> list[InvertibleLayer]:
        depth = self.depth if self.kernel_sizes is None else len(self.kernel_sizes) - 1
        backwards = place.index % 2 == 1
        return [
            ActNorm(**options),
            MaskedAutoregressive([place.width] * depth, backwards, self.kernel_sizes, **options),
        ]


def alternating(index: int, channels: int, taps: int) -> list[int]:
    """Returns the channels that a coupling leaves as they are.

    After a squeeze they are half of the pixels of each 2 x 2 block: in turn a checkerboard, rows
    and columns, and then the other half of each. Without a squeeze they are every second channel.

    Args:
      index: the coupling's place in its scale.
      channels: how many there are.
      taps: pixels of a block, a power of 2.
    """
    if taps == 1:
        return [channel for channel in range(channels) if channel % 2 == index % 2]
    patterns, each = taps - 1, channels // taps
    pattern, side = patterns - index % patterns, index // patterns % 2
    # The axes of a pattern are the bits of its number; parity along them splits a block in two.
    stay = [tap for tap in range(taps) if (tap & pattern).bit_count() % 2 == side]
    return [tap * each + channel for tap in stay for channel in range(each)]


ARCHITECTURES: dict[str, type[Architecture]] = {
    "nice": NICE,
    "realnvp": RealNVP,
    "glow": Glow,
    "ffjord": FFJORD,
    "maf": MAF,
}
