"""Scaling of kernels until a model is proven to be invertible."""

from __future__ import annotations

import itertools
import math
import numbers
from dataclasses import dataclass
from typing import NamedTuple

import keras

from tf_iresnet.certificate.proof import block_of, certify
from tf_iresnet.certificate.report import Block, Certificate
from tf_iresnet.certificate.walk import find_subject, known_leaves
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.spectral import SpectralLayer


class Scaled(NamedTuple):
    """A kernel that was scaled, and the factor in terms of its normalised values.

    Example:
    >>> Scaled("block/linear_0", 0.9).factor
    0.9
    """

    name: str
    factor: float


@dataclass(frozen=True)
class Rescaling:
    """What was scaled, and what is proven of the model since.

    Args:
      certificate: of the scaled model.
      scaled: the kernels that were scaled; none if all blocks were below already.

    Example:
    >>> certificate = Certificate("flow", (), (), 1.0, "exact arithmetic")
    >>> rescaling = Rescaling(certificate, (Scaled("block/linear_0", 0.9),))
    >>> rescaling.to_markdown().splitlines()[-1]
    'Scaled: block, linear_0 by 0.900000.'
    """

    certificate: Certificate
    scaled: tuple[Scaled, ...]

    def to_markdown(self) -> str:
        """Returns the certificate's table, with what was scaled below it."""
        lines = [self.certificate.to_markdown()]
        for block, kernels in itertools.groupby(self.scaled, lambda s: s.name.rpartition("/")[0]):
            listed = [f"{name.rpartition('/')[2]} by {factor:.6f}" for name, factor in kernels]
            lines.append(f"Scaled: {block}, {', '.join(listed)}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict[str, object]:
        """Returns the certificate's dictionary, with ``scaled`` in it."""
        return {
            **self.certificate.to_dict(),
            "scaled": [scaled._asdict() for scaled in self.scaled],
        }


def rescale(model: object, below: float) -> Rescaling:
    """Scales the kernels of every block whose bound is not below a number, until it is.

    All linear layers of a block are scaled by one factor. This changes the model's weights; after
    an error they are what they were.

    Args:
      model: as in `certify`.
      below: the number that the blocks' bounds shall be below, in (0, 1].

    Returns:
      What was scaled, and the certificate of the scaled model.

    Raises:
      ValueError: if ``below`` is out of range, a part has no known bound, or a block cannot be
        scaled: it has ``coeff=None``, no spectral layer, weights that are NaN or infinite, or a
        bound that does not follow its kernels.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> block = InvertibleResidual(hidden=8, coeff=0.9)
    >>> block.build((None, 2))
    >>> result = rescale(block, below=0.5)
    >>> result.certificate.contraction < 0.5, len(result.scaled)
    (True, 3)

    Source: no part of the papers.
    """
    if isinstance(below, bool) or not isinstance(below, numbers.Real) or not 0 < below <= 1:
        raise ValueError(f"below must lie in (0, 1], got {below!r}.")
    certificate = certify(model)
    above = {block.name for block in certificate.blocks if not block.bound < below}
    leaves = [(path, leaf) for path, leaf in known_leaves(find_subject(model)[0]) if path in above]
    for path, leaf in leaves:
        _check_scalable(leaf, block_of(leaf, path))
    if not leaves:
        return Rescaling(certificate, ())
    kernels = [kernel.kernel for _, leaf in leaves for kernel in _spectral_layers(leaf)]
    before = [kernel.numpy() for kernel in kernels]
    try:
        scaled = [entry for path, leaf in leaves for entry in _scale(leaf, path, float(below))]
    except BaseException:
        for kernel, value in zip(kernels, before, strict=True):
            kernel.assign(value)
        raise
    return Rescaling(certify(model), tuple(scaled))


def _spectral_layers(leaf: keras.layers.Layer) -> list[SpectralLayer]:
    branch = leaf.branch if isinstance(leaf, InvertibleResidual) else leaf
    return [part for part in layers_inside(branch) if isinstance(part, SpectralLayer)]


def _check_scalable(leaf: keras.layers.Layer, block: Block) -> None:
    if not math.isfinite(block.bound):
        reason = "; ".join(block.doubts)
        raise ValueError(f"{block.name} cannot be rescaled: {reason}; restore the weights first.")
    if not _spectral_layers(leaf) or not block.constrained:
        reason = "coeff=None" if not block.constrained else "no spectral layer"
        raise ValueError(
            f"{block.name} has {reason}, so its bound {block.bound:.6g} cannot be rescaled; build "
            "the branch of spectral layers with a coeff in (0, 1)."
        )


def _scale(leaf: keras.layers.Layer, path: str, below: float) -> list[Scaled]:
    """Scales a block's kernels, all by one factor, so that its bound is below ``below``."""
    kernels = _spectral_layers(leaf)
    bound = block_of(leaf, path).bound
    total, power = 1.0, float(len(kernels))
    while bound >= below:
        # The bound of a chain goes with this power of the factor, that of concatenations with a
        # smaller one, which is then measured. The margin is for the kernels' roundings.
        factor = (below * (1 - 1e-4) / bound) ** (1 / power)
        for kernel in kernels:
            # The kernel is normalised for good: its estimated norm is below coeff from now on.
            kernel.kernel.assign(factor * kernel.normalized_kernel())
        total, before, bound = total * factor, bound, block_of(leaf, path).bound
        power = math.log(bound / before) / math.log(factor)
        if not power > 0:
            raise ValueError(
                f"the bound {bound:.6g} of {path} does not fall with its kernels; the "
                "branch's lipschitz_bound() must be computed from them."
            )
    return [Scaled(f"{path}/{kernel.name}", total) for kernel in kernels] if total < 1.0 else []
