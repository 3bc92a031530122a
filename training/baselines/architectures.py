"""The baselines' architectures: which layers make a scale."""

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tf_iresnet.arguments import (
    checked_integer,
    checked_integers,
    checked_widths,
    widths_of_scales,
)
from tf_iresnet.layers import ActNorm, InvertibleLayer, InvertibleSequential, Squeeze
from tf_iresnet.log_det import Exact, LogDetEstimator, PowerSeries
from training.baselines.autoregressive import MaskedAutoregressive
from training.baselines.continuous import ContinuousFlow
from training.baselines.coupling import Coupling
from training.baselines.linear import InvertibleLinear


@dataclass(frozen=True)
class Architecture(abc.ABC):
    """What the scales of a flow are made of.

    Args:
        blocks: how many blocks each scale has.
        hidden: channels of the networks, one number or one for each scale.

    Raises:
        ValueError: an argument is out of range.
    """

    blocks: tuple[int, ...]
    hidden: int | tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_integers("blocks", self.blocks, "scale"))
        hidden = checked_widths(self.hidden, len(self.blocks))
        object.__setattr__(self, "hidden", hidden)

    @property
    def estimator(self) -> LogDetEstimator:
        """What evaluation takes for log-determinants."""
        return Exact()

    @abc.abstractmethod
    def block(self, index: int, width: int, channels: int, taps: int, **options: Any) -> Any:
        """Makes the layers of one block.

        Args:
            index: the block's place in its scale.
            width: channels of its network.
            channels: those of its input.
            taps: pixels that the scale's squeeze has moved into channels; 1 without a squeeze.
            **options: of every layer.

        Returns:
            Invertible layers, in the order from data to latent.
        """

    def ending(self, width: int, channels: int, **options: Any) -> list[InvertibleLayer]:
        """Makes what ends a scale from which half of the channels leave."""
        return []

    def scales(
        self, event_shape: Sequence[int], factor_out: bool, **options: Any
    ) -> list[InvertibleSequential]:
        """Makes the scales.

        Args:
            event_shape: the shape of one example; a scale of images starts with a squeeze.
            factor_out: whether half of the channels leave after each scale but the last.
            **options: of every layer.

        Returns:
            One layer for each scale.
        """
        channels, taps = event_shape[-1], 2 ** (len(event_shape) - 1)
        scales, widths = [], widths_of_scales(self.hidden, len(self.blocks))
        for number, (count, width) in enumerate(zip(self.blocks, widths, strict=True)):
            layers: list[InvertibleLayer] = []
            if taps > 1:
                layers.append(Squeeze(name="squeeze", **options))
                channels *= taps
            for index in range(count):
                layers += self.block(index, width, channels, taps, **options)
            if factor_out and number + 1 < len(self.blocks):
                layers += self.ending(width, channels, **options)
                channels //= 2
            scales.append(InvertibleSequential(layers, name=f"scale_{number}", **options))
        return scales

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for Keras' files."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Architecture":
        """Makes one from what `get_config` returned."""
        return cls(**config)


@dataclass(frozen=True)
class _Convolutional(Architecture):
    kernel_sizes: tuple[int, ...] = (3, 1, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = checked_integers("kernel_sizes", self.kernel_sizes, "layer of a network")
        object.__setattr__(self, "kernel_sizes", sizes)


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class NICE(_Convolutional):
    """Additive couplings alone; the prior's learned scales stand for the paper's last layer.

    Args:
        blocks: couplings of each scale.
        hidden: channels of the networks.
        kernel_sizes: of the networks' layers.
    """

    def block(self, index, width, channels, taps, **options):
        masked = alternating(index, channels, taps)
        return [Coupling(masked, width, self.kernel_sizes, "none", **options)]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class RealNVP(_Convolutional):
    """Affine couplings, each after ActNorm in place of the paper's batch normalisation.

    Args:
        blocks: couplings of each scale.
        hidden: channels of the networks.
        kernel_sizes: of the networks' layers.
    """

    def block(self, index, width, channels, taps, **options):
        masked = alternating(index, channels, taps)
        return [
            ActNorm(**options),
            Coupling(masked, width, self.kernel_sizes, "tanh", **options),
        ]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class Glow(_Convolutional):
    """Steps of ActNorm, an invertible 1x1 convolution and a coupling.

    Where half of the channels leave, one more affine coupling makes what leaves a normal whose
    mean and scale are functions of what stays.

    Args:
        blocks: steps of each scale.
        hidden: channels of the networks.
        kernel_sizes: of the networks' layers.
        coupling: "affine" or "additive".
    """

    coupling: str = "affine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coupling not in ("affine", "additive"):
            raise ValueError(f'coupling must be "affine" or "additive", got {self.coupling!r}.')

    def block(self, index, width, channels, taps, **options):
        scale = "sigmoid" if self.coupling == "affine" else "none"
        masked = range(channels // 2)
        return [
            ActNorm(**options),
            InvertibleLinear(**options),
            Coupling(masked, width, self.kernel_sizes, scale, **options),
        ]

    def ending(self, width, channels, **options):
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

    kernel_sizes: tuple[int, ...] = (3, 3, 3)
    steps: int = 2
    rtol: float = 1e-4
    atol: float = 1e-4
    probes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_integer("steps", self.steps, 1)

    @property
    def estimator(self) -> LogDetEstimator:
        return PowerSeries(terms=1, probes=self.probes)

    def block(self, index, width, channels, taps, **options):
        solver = (self.steps, self.rtol, self.atol)
        return [ContinuousFlow(width, self.kernel_sizes, *solver, self.estimator, **options)]


@keras.saving.register_keras_serializable("training")
@dataclass(frozen=True)
class MAF(Architecture):
    """Masked autoregressive layers in alternating order, each after ActNorm.

    A sample takes as many evaluations of each network as there are dimensions.

    Args:
        blocks: autoregressive layers of each scale.
        hidden: width of the networks' hidden layers.
        depth: how many hidden layers a dense network has.
        kernel_sizes: of masked convolutions, odd, in place of dense layers, and `depth` then
            stays at 1; None for none.
    """

    depth: int = 1
    kernel_sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_integer("depth", self.depth, 1)
        if self.kernel_sizes is not None:
            sizes = checked_integers("kernel_sizes", self.kernel_sizes, "layer of a network")
            object.__setattr__(self, "kernel_sizes", sizes)
            if self.depth != 1:
                raise ValueError(
                    "depth is of dense networks, that of convolutions the number of kernel_sizes: "
                    f"leave out one of depth={self.depth} and kernel_sizes={sizes}."
                )

    def block(self, index, width, channels, taps, **options):
        depth = self.depth if self.kernel_sizes is None else len(self.kernel_sizes) - 1
        backwards = index % 2 == 1
        return [
            ActNorm(**options),
            MaskedAutoregressive([width] * depth, backwards, self.kernel_sizes, **options),
        ]


def alternating(index: int, channels: int, taps: int) -> list[int]:
    """Chooses the channels that stay in the coupling of a given place.

    After a squeeze they are those of half of the pixels of each 2 x 2 block: checkerboard, rows
    and columns in turn, and then the other halves. Without one they are every second.

    Args:
        index: the coupling's place in its scale.
        channels: how many there are.
        taps: pixels of a block, a power of 2.

    Returns:
        Their indices.
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
