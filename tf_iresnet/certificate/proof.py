"""Proofs of invertibility: a model's bounds, composed of those of its parts."""

from __future__ import annotations

import math

import keras

from tf_iresnet.certificate.report import Block, Certificate, Inverse
from tf_iresnet.certificate.walk import find_subject, known_leaves, known_sublayers
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.lipschitz import (
    Part,
    inverse_bound,
    inverse_bound_of,
    not_finite,
    parts_of,
)
from tf_iresnet.layers.residual import InvertibleResidual, offers_function
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.vouching import behaviour_of, check_not_replaced, own_bound
from tf_iresnet.norms.dense import multiply_up


def certify(model: object) -> Certificate:
    r"""Proves as much as can be proven of a model's invertibility; it changes nothing.

    A block x + g(x) is invertible if Lip(g) < 1 (theorem 1), and the constant of its inverse is
    then at most 1 / (1 - Lip(g)). Lip(g) is bounded by the product of the branch's parts: proven
    bounds of the linear layers' operator norms, from their kernels alone, and the activations'
    constants. The constant of the whole inverse is composed of all layers', ActNorm and
    preprocessing included.

    Only layers that are known by their exact class are taken apart. Any other layer is asked for
    its own ``lipschitz_bound()`` (an invertible one for ``inverse_lipschitz_bound()``), which is
    believed if its class vouches for it: a class that changes what a layer computes states the
    bound itself. All other layers are refused by name. Nothing is proven of a model with a weight
    that is NaN or infinite, the prior's and the head's included, nor of a block whose branch
    computes with less than 32 bits in inference.

    Args:
      model: a model, bijector or layer of tf_iresnet, built; a `keras.Sequential` of invertible
        layers; or a branch g, which is certified as that of a block. For a model the certificate is
        about its ``flow``, for a bijector about its ``layer``.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: if a part has no known bound (it is named), or is not built.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> block = InvertibleResidual(hidden=8, coeff=0.9, normalization="bound", name="block")
    >>> block.build((None, 2))
    >>> certificate = certify(block)
    >>> certificate.invertible, 0 < certificate.contraction < 0.9**3 * 1.0001
    (True, True)

    Source: Invertible Residual Networks, theorem 1 and lemma 2.
    """
    layer, others = find_subject(model)
    blocks: list[Block] = []
    inverses: list[Inverse] = []
    values: dict[int, float] = {}
    for path, leaf in known_leaves(layer):
        if _is_block(leaf):
            block = block_of(leaf, path)
            blocks.append(block)
            inverse = Inverse(path, type(leaf).__name__, _inverse_of(block))
        else:
            inverse = _inverse(leaf, path)
        inverses.append(inverse)
        values[id(leaf)] = inverse.bound
    amplification = _compose(layer, values)
    doubts = not_finite(others)
    certain = all(block.proven for block in blocks) and not any(i.doubts for i in inverses)
    if certain and amplification == math.inf:
        doubts.append(f"{layer.name}: its inverse has no known Lipschitz constant")
    return Certificate(
        str(getattr(model, "name", type(model).__name__)),
        tuple(blocks),
        tuple(inverses),
        amplification,
        _describe_arithmetic(layer),
        tuple(doubts),
    )


def _is_block(leaf: keras.layers.Layer) -> bool:
    """Says whether a leaf is a residual block, or a branch, which is certified as that of one."""
    return isinstance(leaf, InvertibleResidual) or not isinstance(leaf, InvertibleLayer)


def block_of(leaf: keras.layers.Layer, path: str) -> Block:
    """Returns what is proven of a residual block, or of a branch as that of one.

    Args:
      leaf: the block, or the branch.
      path: its name in the certificate.

    Raises:
      ValueError: if a part has no known bound; it is named.
    """
    residual = isinstance(leaf, InvertibleResidual)
    branch = leaf.branch if residual else leaf
    obstacles = not_finite(leaf.variables)
    if not obstacles:
        low = sorted(_narrow(_compute_dtypes(leaf, training=False)))
        obstacles = [
            f"{path}: its branch computes in {dtype} in inference too, whose rounding no "
            "Lipschitz constant bounds; give it a policy of full precision"
            for dtype in low
        ]
        parts = _parts(leaf, path)
        bound = multiply_up(part.bound for part in parts)
    else:
        parts, bound = [], math.inf
    inner = [leaf, *layers_inside(branch)]
    free = any(
        isinstance(part, (SpectralLayer, InvertibleResidual)) and part.coeff is None
        for part in inner
    )
    return Block(path, bound, tuple(parts), not free, tuple(obstacles))


def _parts(leaf: keras.layers.Layer, path: str) -> list[Part]:
    try:
        if not isinstance(leaf, InvertibleResidual):
            return parts_of(leaf)
        if behaviour_of(type(leaf)) is InvertibleResidual:
            check_not_replaced(leaf)
            return parts_of(leaf.branch)
        return [Part(leaf.name, type(leaf).__name__, own_bound(leaf))]
    except ValueError as error:
        raise ValueError(f"{path} cannot be certified: {error}") from error


def _inverse_of(block: Block) -> float:
    return inverse_bound(block.bound) if block.proven else math.inf


def _inverse(leaf: InvertibleLayer, path: str) -> Inverse:
    """Returns what is proven of an invertible layer that is no residual block."""
    try:
        bound = inverse_bound_of(leaf)
    except ValueError as error:
        raise ValueError(f"{path} cannot be certified: {error}") from error
    doubts = not_finite(leaf.variables)
    if bound == math.inf and not doubts:
        doubts = [f"{path}: its inverse has no known Lipschitz constant"]
    return Inverse(path, type(leaf).__name__, bound, tuple(doubts))


def _compose(layer: keras.layers.Layer, values: dict[int, float]) -> float:
    """Returns the Lipschitz constant of a layer's inverse, from those of the leaves."""
    inner = known_sublayers(layer)
    if not inner:
        return values[id(layer)]
    constants = [_compose(part, values) for part in inner]
    if isinstance(layer, InvertibleLayer):
        return inverse_bound_of(layer, constants)
    return multiply_up(constants)


# --- arithmetic ---


def _compute_dtypes(leaf: keras.layers.Layer, training: bool) -> set[str]:
    """Returns the dtypes in which a block's branch, or a branch itself, computes."""
    branch = leaf.branch if isinstance(leaf, InvertibleResidual) else leaf
    if not offers_function(branch):  # it follows its own policies
        return {layer.compute_dtype for layer in layers_inside(branch)}
    return {leaf.compute_dtype if training else leaf.variable_dtype}


def _narrow(dtypes: set[str]) -> set[str]:
    return dtypes - {"float32", "float64"}


def _describe_arithmetic(layer: keras.layers.Layer) -> str:
    """Says in words for which arithmetic the bounds hold."""
    dtypes = {keras.backend.standardize_dtype(weight.dtype) for weight in layer.variables}
    stored = " and ".join(sorted(dtype for dtype in dtypes if "float" in dtype))
    weights = f" on the weights as stored in {stored}" if stored else ""
    blocks = [leaf for _, leaf in known_leaves(layer) if _is_block(leaf)]
    low = _narrow({dtype for leaf in blocks for dtype in _compute_dtypes(leaf, training=True)})
    training = f"; nothing is claimed of training in {' and '.join(sorted(low))}" if low else ""
    return (
        f"exact arithmetic{weights}, in inference; the rounding of an evaluation is not counted"
        f"{training}"
    )
