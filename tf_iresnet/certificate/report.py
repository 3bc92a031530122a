"""Certificates: what is proven of a model, as data, text and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

from tf_iresnet.layers.lipschitz import Part


@dataclass(frozen=True)
class Block:
    """A residual block x + g(x) and the proven Lipschitz constant of its branch g.

    Args:
      name: its path in the model.
      bound: the product of the parts' bounds; infinite if a weight is NaN or infinite.
      parts: the branch's parts in the order of evaluation; none if a weight is not finite.
      constrained: whether anything keeps the bound there; not with ``coeff=None``.
      obstacles: why even a small bound proves nothing: weights that are not finite, or a branch
        that computes with less than 32 bits in inference.

    Example:
    >>> Block("block", 1.2, (), constrained=True).doubts
    ('block: the bound 1.2 is not below 1',)
    """

    name: str
    bound: float
    parts: tuple[Part, ...]
    constrained: bool
    obstacles: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether the block is certified to be invertible."""
        return not self.doubts

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is not proven, and why; empty for a proven block."""
        if self.obstacles:
            return self.obstacles
        if not self.bound < 1.0:
            return (f"{self.name}: the bound {self.bound:.6g} is not below 1",)
        if not self.constrained:
            return (f"{self.name}: coeff=None, nothing holds the bound {self.bound:.6g} below 1",)
        return ()


class Inverse(NamedTuple):
    """An invertible layer and a proven Lipschitz constant of its inverse.

    Args:
      name: its path in the model.
      kind: its class.
      bound: the constant; infinite if none is known.
      doubts: why there is none; empty for a residual block, whose `Block` says it.

    Example:
    >>> Inverse("flow/actnorm", "ActNorm", 2.0).bound
    2.0
    """

    name: str
    kind: str
    bound: float
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certificate:
    r"""What is proven of a model, or of the layers in it.

    All bounds hold in the arithmetic that the certificate names. A block's bound holds for its
    kernels as the layers normalise them now. The bound of reconstruction,
    \|x - x'\| <= amplification \|z - z'\|, holds for the inverse of the whole stack. Invertible
    means injective, with an inverse of that constant on the stack's range. That the range is the
    whole space is not claimed, and with `InjectivePadding` it is not.

    Args:
      name: of the model.
      blocks: the residual blocks, in order.
      inverses: the invertible layers that are no compositions, in order.
      amplification: Lipschitz constant of the inverse; infinite if none is known.
      arithmetic: the numbers for which the bounds hold.
      doubts: what is not proven beside the blocks and inverses, such as a prior's weights that
        are not finite.

    Example:
    >>> block = Block("block", 0.5, (), constrained=True)
    >>> certificate = Certificate("flow", (block,), (), 2.0, "exact arithmetic")
    >>> certificate.invertible, certificate.contraction
    (True, 0.5)

    Source: Invertible Residual Networks, theorem 1 and lemma 2.
    """

    name: str
    blocks: tuple[Block, ...]
    inverses: tuple[Inverse, ...]
    amplification: float
    arithmetic: str
    doubts: tuple[str, ...] = ()

    @property
    def contraction(self) -> float:
        """The largest bound of a block's branch; 0 without blocks."""
        return max((block.bound for block in self.blocks), default=0.0)

    @property
    def invertible(self) -> bool:
        """Whether every layer is proven to be invertible, and nothing is in doubt."""
        return not self.not_proven

    @property
    def not_proven(self) -> tuple[str, ...]:
        """What is not proven, and why, one line each: the layers' doubts, then the model's."""
        doubts = [*(b.doubts for b in self.blocks), *(i.doubts for i in self.inverses), self.doubts]
        return tuple(doubt for group in doubts for doubt in group)

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
                _round_up(block.bound),
                " · ".join(_round_up(part.bound) for part in block.parts),
                "proven" if block.proven else "not proven",
            )
            for block in self.blocks
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        verdict = "proven to be invertible" if self.invertible else "not proven to be invertible"
        if self.invertible and any(i.kind == "InjectivePadding" for i in self.inverses):
            verdict += " on what it maps to, since padding is not onto"
        lines += [
            "",
            f"{self.name}: {verdict}; largest bound {_round_up(self.contraction)}, "
            f"an error of the latent grows at most {_round_up(self.amplification)} times.",
        ]
        lines += [f"Not proven: {doubt}." for doubt in self.not_proven]
        return "\n".join([*lines, f"Arithmetic: {self.arithmetic}."])

    def __str__(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict[str, object]:
        """Returns all of it as `json` can hold it; what is infinite is None."""
        return {
            "model": self.name,
            "invertible": self.invertible,
            "arithmetic": self.arithmetic,
            "contraction": _none_if_infinite(self.contraction),
            "amplification": _none_if_infinite(self.amplification),
            "not_proven": list(self.not_proven),
            "blocks": [
                {
                    "name": block.name,
                    "bound": _none_if_infinite(block.bound),
                    "proven": block.proven,
                    "parts": [
                        {**p._asdict(), "bound": _none_if_infinite(p.bound)} for p in block.parts
                    ],
                }
                for block in self.blocks
            ],
            "inverses": [
                {"name": i.name, "kind": i.kind, "bound": _none_if_infinite(i.bound)}
                for i in self.inverses
            ],
        }

    def to_json(self) -> str:
        """Returns all of it as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _round_up(value: float) -> str:
    """Prints a bound with six digits, rounded up."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    digit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return f"{math.ceil(value / digit) * digit:.6g}"


def _none_if_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None
