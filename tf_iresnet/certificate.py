"""Certificates of invertibility: a model's bounds, composed of those of its parts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from tf_iresnet.bounds.dense import product_up
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.lipschitz import Part, inverse_bound, parts_of
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.spectral import SpectralLayer


@dataclass(frozen=True)
class Block:
    """A residual block x + g(x) and the proven Lipschitz constant of its branch g.

    Args:
      name: its path in the model.
      bound: the product of the parts' bounds.
      parts: the branch's parts in the order of evaluation.
      constrained: whether anything holds the bound there; not with ``coeff=None``.
    """

    name: str
    bound: float
    parts: tuple[Part, ...]
    constrained: bool

    @property
    def proven(self) -> bool:
        """Whether the block is certified to be invertible."""
        return self.constrained and self.bound < 1.0

    @property
    def doubt(self) -> str:
        """What is not proven, and why; empty for a proven block."""
        if self.bound >= 1.0:
            return f"{self.name}: the bound {self.bound:.6g} is not below 1"
        if not self.constrained:
            return f"{self.name}: coeff=None, nothing holds the bound {self.bound:.6g} below 1"
        return ""


class Inverse(NamedTuple):
    """An invertible layer and a proven Lipschitz constant of its inverse."""

    name: str
    kind: str
    bound: float


class Scaled(NamedTuple):
    """A kernel that was scaled, and the factor in terms of its normalised values."""

    name: str
    factor: float


@dataclass(frozen=True)
class Certificate:
    r"""What is proven of a model.

    All bounds hold for the numbers as stored, in exact arithmetic: that of a block for its
    kernels as the layers normalise them now, and that of reconstruction,
    \|x - x'\| <= amplification \|z - z'\|, for the inverse of the whole stack.

    Args:
      name: of the model.
      blocks: the residual blocks, in order.
      inverses: the invertible layers that are no compositions, in order.
      amplification: Lipschitz constant of the inverse; infinite if none is known.
      scaled: the kernels that were scaled on the way.

    Source: Invertible Residual Networks, theorem 1 and lemma 2.
    """

    name: str
    blocks: tuple[Block, ...]
    inverses: tuple[Inverse, ...]
    amplification: float
    scaled: tuple[Scaled, ...] = ()

    @property
    def contraction(self) -> float:
        """The largest bound of a block's branch; 0 without blocks."""
        return max((block.bound for block in self.blocks), default=0.0)

    @property
    def invertible(self) -> bool:
        """Whether every block is proven to be invertible."""
        return all(block.proven for block in self.blocks)

    @property
    def not_proven(self) -> tuple[str, ...]:
        """What is not proven, one line for each block in doubt."""
        return tuple(block.doubt for block in self.blocks if not block.proven)

    @property
    def exceeding(self) -> tuple[Part, ...]:
        """The linear layers whose bound is above their coeff, named by their paths."""
        return tuple(
            part._replace(name=f"{block.name}/{part.name}")
            for block in self.blocks
            for part in block.parts
            if part.coeff is not None and part.bound > part.coeff
        )

    def to_markdown(self) -> str:
        """Returns the table, with what is not proven below it."""
        rows = [("block", "bound of Lip(g)", "parts", "invertible")]
        rows += [
            (
                block.name,
                _up(block.bound),
                " · ".join(_up(part.bound) for part in block.parts),
                "proven" if block.proven else "not proven",
            )
            for block in self.blocks
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        verdict = "proven to be invertible" if self.invertible else "not proven to be invertible"
        lines += [
            "",
            f"{self.name}: {verdict}; largest bound {_up(self.contraction)}, "
            f"an error of the latent grows at most {_up(self.amplification)} times.",
        ]
        lines += [f"Not proven: {doubt}." for doubt in self.not_proven]
        for block, kernels in itertools.groupby(self.scaled, lambda s: s.name.rpartition("/")[0]):
            listed = [f"{name.rpartition('/')[2]} by {factor:.6f}" for name, factor in kernels]
            lines.append(f"Scaled: {block}, {', '.join(listed)}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as `json` can hold it; what is infinite is None."""
        return {
            "model": self.name,
            "invertible": self.invertible,
            "contraction": _finite(self.contraction),
            "amplification": _finite(self.amplification),
            "not_proven": list(self.not_proven),
            "blocks": [
                {
                    "name": block.name,
                    "bound": _finite(block.bound),
                    "proven": block.proven,
                    "parts": [{**p._asdict(), "bound": _finite(p.bound)} for p in block.parts],
                }
                for block in self.blocks
            ],
            "inverses": [{**i._asdict(), "bound": _finite(i.bound)} for i in self.inverses],
            "scaled": [scaled._asdict() for scaled in self.scaled],
        }

    def to_json(self) -> str:
        """Returns all of it as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def certify(model: Any, *, rescale: float | None = None) -> Certificate:
    r"""Proves as much as can be proven of a model's invertibility.

    A block x + g(x) is invertible if Lip(g) < 1 (theorem 1), and the constant of its inverse is
    then at most 1 / (1 - Lip(g)). Lip(g) is bounded by the product of the branch's parts: proven
    bounds of the linear layers' operator norms, from their kernels alone, and the activations'
    constants. The constant of the whole inverse is composed of all layers', ActNorm and
    preprocessing included.

    Args:
      model: a model, bijector or layer of tf_iresnet, built; a `keras.Sequential` of invertible
        layers; or a branch g, which is taken as that of a block.
      rescale: a number in (0, 1]; blocks whose bound is not below it have all linear layers
        scaled by one factor until it is. This changes the model's weights.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: if a part has no known bound (it is named), is not built, or cannot be scaled.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> block = InvertibleResidual(hidden=8, coeff=0.9, normalization="bound", name="block")
    >>> block.build((None, 2))
    >>> certificate = certify(block)
    >>> certificate.invertible, 0 < certificate.contraction < 0.9**3 * 1.0001
    (True, True)

    Source: Invertible Residual Networks, theorem 1 and lemma 2.
    """
    name = str(getattr(model, "name", type(model).__name__))
    below = None if rescale is None else _checked_rescale(rescale)
    layer = _unwrapped(model)
    blocks: list[Block] = []
    inverses: list[Inverse] = []
    scaled: list[Scaled] = []
    values: dict[int, float] = {}
    for path, leaf in _leaves(layer, ""):
        path = path or leaf.name
        if isinstance(leaf, InvertibleLayer) and not isinstance(leaf, InvertibleResidual):
            value = leaf.inverse_lipschitz_bound()
        else:
            block = _block(leaf, path)
            if below is not None and block.bound >= below:
                scaled += _rescaled(leaf, block, below)
                block = _block(leaf, path)
            blocks.append(block)
            value = inverse_bound(block.bound) if block.proven else math.inf
        inverses.append(Inverse(path, type(leaf).__name__, value))
        values[id(leaf)] = value
    return Certificate(
        name, tuple(blocks), tuple(inverses), _composed(layer, values), tuple(scaled)
    )


def _unwrapped(model: Any) -> Any:
    """The layer that a model or a bijector holds, or what was given."""
    for attribute in ("flow", "layer"):
        inner = getattr(model, attribute, None)
        if isinstance(inner, InvertibleLayer):
            return inner
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"model must be a model, bijector or layer of tf_iresnet, got {type(model).__name__}."
        )
    return model


def _sublayers(layer: Any) -> Sequence[InvertibleLayer]:
    """The invertible layers inside a composition."""
    if isinstance(layer, InvertibleLayer):
        return layer.sublayers()
    inner = layer.layers if isinstance(layer, keras.Sequential) else []
    known = [part for part in inner if isinstance(part, InvertibleLayer)]
    if known and len(known) < len(inner):
        other = next(part for part in inner if part not in known)
        raise ValueError(
            f"{type(other).__name__} {other.name!r} in {layer.name!r} is no invertible layer of "
            "tf_iresnet; certify the invertible ones alone."
        )
    return known


def _leaves(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields what is no composition, in order, with its path in the model."""
    if not layer.built:
        raise ValueError(
            f"{layer.name} has no weights yet: call it on data, or build(input_shape) it."
        )
    inner = _sublayers(layer)
    for part in inner:
        yield from _leaves(part, f"{path}/{part.name}" if path else part.name)
    if not inner:
        yield path, layer


def residual_blocks(layer: Any) -> Iterator[tuple[str, InvertibleResidual]]:
    """Yields the residual blocks of a layer with their paths, as a certificate lists them."""
    for path, leaf in _leaves(layer, ""):
        if isinstance(leaf, InvertibleResidual):
            yield path or leaf.name, leaf


def _composed(layer: Any, values: dict[int, float]) -> float:
    """The Lipschitz constant of a layer's inverse, from those of the leaves."""
    inner = _sublayers(layer)
    if not inner:
        return values[id(layer)]
    constants = [_composed(part, values) for part in inner]
    if isinstance(layer, InvertibleLayer):
        return layer.inverse_lipschitz_bound(constants)
    return product_up(constants)


def _block(layer: Any, path: str) -> Block:
    residual = isinstance(layer, InvertibleResidual)
    branch = layer.branch if residual else layer
    try:
        parts = parts_of(branch)
    except ValueError as error:
        raise ValueError(f"{path} cannot be certified: {error}") from error
    free = [part for part in _spectral(branch) if part.coeff is None]
    constrained = not free and not (residual and layer.coeff is None)
    return Block(path, product_up(part.bound for part in parts), tuple(parts), constrained)


def _spectral(branch: keras.layers.Layer) -> list[SpectralLayer]:
    return [part for part in layers_inside(branch) if isinstance(part, SpectralLayer)]


def _checked_rescale(rescale: Any) -> float:
    if isinstance(rescale, bool) or not isinstance(rescale, (int, float)) or not 0 < rescale <= 1:
        raise ValueError(f"rescale must lie in (0, 1], or be None, got {rescale!r}.")
    return float(rescale)


def _rescaled(layer: Any, block: Block, below: float) -> list[Scaled]:
    """Scales a block's kernels, all by one factor, so that its bound is below ``below``."""
    branch = layer.branch if isinstance(layer, InvertibleResidual) else layer
    kernels = _spectral(branch)
    if not kernels or not block.constrained:
        reason = "coeff=None" if not block.constrained else "no spectral layer"
        raise ValueError(
            f"{block.name} has {reason}, so its bound {block.bound:.6g} cannot be rescaled; build "
            "the branch of spectral layers with a coeff in (0, 1)."
        )
    total, bound, power = 1.0, block.bound, float(len(kernels))
    while bound >= below:
        # A chain's bound goes with this power of the factor, that of concatenations with less:
        # then the power is measured. A little more than needed, for the kernels' roundings.
        factor = (below * (1 - 1e-4) / bound) ** (1 / power)
        for kernel in kernels:
            # Normalised once and for all: the estimate of the norm is below coeff from now on.
            kernel.kernel.assign(factor * kernel.normalized_kernel())
        total, before, bound = total * factor, bound, _block(layer, block.name).bound
        power = math.log(bound / before) / math.log(factor)
        if not power > 0:
            raise ValueError(
                f"the bound {bound:.6g} of {block.name} does not fall with its kernels; the "
                "branch's lipschitz_bound() must be computed from them."
            )
    return [Scaled(f"{block.name}/{kernel.name}", total) for kernel in kernels]


def _up(value: float) -> str:
    """Prints a bound with six digits, rounded up."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    digit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return f"{math.ceil(value / digit) * digit:.6g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
