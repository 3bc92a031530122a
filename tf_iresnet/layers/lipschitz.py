"""Lipschitz constants of branches, composed of those of their parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

from tf_iresnet.layers.vouching import (
    behaviour_of,
    check_bound,
    check_not_replaced,
    check_vouched,
    describe,
    own_bound,
)
from tf_iresnet.norms.dense import multiply_up, round_up
from tf_iresnet.typing import Bounded


class Part(NamedTuple):
    """A part of a branch, its proven Lipschitz constant, and the coeff it should stay below."""

    name: str
    kind: str
    bound: float
    coeff: float | None = None


Rule = Callable[[Any], list[Part]]
R = TypeVar("R", bound=Rule)
_RULES: dict[type, Rule] = {}


def rule_for(*kinds: type) -> Callable[[R], R]:
    """Registers how layers of just these classes are taken apart (`tf_iresnet.layers.known`)."""

    def register(rule: R) -> R:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def parts_of(layer: keras.layers.Layer | Bounded) -> list[Part]:
    """Returns a branch's parts in the order of evaluation, each with its bound.

    A layer that is known by its exact class is taken apart. A subclass that defines no more than a
    constructor and a configuration counts as its base. Every other layer is asked for its own
    ``lipschitz_bound()``, which is believed if its class vouches for it
    (`tf_iresnet.layers.vouching`).

    Args:
      layer: a built layer.

    Raises:
      ValueError: if a part has no known Lipschitz constant; it is named.

    Example:
    >>> layer = keras.Sequential([keras.Input((2,)), keras.layers.ReLU(name="relu")])
    >>> parts_of(layer)
    [Part(name='relu', kind='ReLU', bound=1.0, coeff=None)]
    """
    rule = _RULES.get(behaviour_of(type(layer)))
    if rule is not None:
        check_not_replaced(layer)
        return rule(layer)
    if hasattr(type(layer), "inverse_lipschitz_bound"):
        raise ValueError(
            f"{describe(layer)} has no known Lipschitz constant inside a branch: what an "
            "invertible layer's lipschitz_bound() speaks of is its own branch; take it out of the "
            "branch."
        )
    check_built(layer)
    kind, name = type(layer).__name__, getattr(layer, "name", None)
    return [Part(name if isinstance(name, str) else kind, kind, own_bound(layer))]


def check_built(layer: object) -> None:
    """Refuses a layer without weights.

    Raises:
      ValueError: if it is not built.
    """
    if not getattr(layer, "built", True):
        raise ValueError(
            f"{describe(layer)} has no weights yet: call it on data, or build(input_shape) it."
        )


def check_offers_bound(layer: keras.layers.Layer | Bounded) -> None:
    """Refuses a branch, built or not, whose class states no bound of it.

    Raises:
      ValueError: if it has no ``lipschitz_bound()``, or one that speaks of another class.
    """
    if behaviour_of(type(layer)) in _RULES and hasattr(type(layer), "lipschitz_bound"):
        check_not_replaced(layer)
    else:
        check_vouched(layer, "lipschitz_bound")


def bound_of(layer: keras.layers.Layer | Bounded) -> float:
    """Returns a branch's proven Lipschitz constant, the product of its parts' bounds.

    It is infinite if a weight is NaN or infinite.

    Raises:
      ValueError: if a part has none; it is named.
    """
    if not_finite(getattr(layer, "variables", ())):
        return math.inf
    return multiply_up(part.bound for part in parts_of(layer))


def inverse_bound(contraction: float) -> float:
    """Returns 1 / (1 - L), rounded up: a Lipschitz constant of the inverse of x + g(x).

    Args:
      contraction: a Lipschitz constant L of g.

    Example:
    >>> 2.0 <= inverse_bound(0.5) < 2.0 + 1e-9, inverse_bound(1.0)
    (True, inf)
    """
    return round_up(1.0 / (1.0 - contraction), 4) if contraction < 1.0 else math.inf


def inverse_bound_of(layer: keras.layers.Layer, *sublayers: Sequence[float]) -> float:
    """Returns an invertible layer's own bound of its inverse's Lipschitz constant.

    It is infinite if a weight is NaN or infinite, or no bound is known.

    Args:
      layer: an invertible layer.
      *sublayers: the constants of the layers that it is composed of, where they are known.

    Raises:
      ValueError: if its class does not vouch for what it computes; it is named.
    """
    # The bound of a residual block's inverse follows from its branch's constant.
    residual = getattr(type(layer), "_bounded_by_branch", False)
    check_vouched(layer, "lipschitz_bound" if residual else "inverse_lipschitz_bound")
    if not_finite(getattr(layer, "variables", ())):
        return math.inf
    return check_bound(layer, "inverse_lipschitz_bound", layer.inverse_lipschitz_bound(*sublayers))


def not_finite(variables: Iterable[keras.Variable]) -> list[str]:
    """Returns which weights hold NaN or infinite values, and what they hold."""
    found = []
    for variable in variables:
        if "float" not in keras.backend.standardize_dtype(variable.dtype):
            continue
        value = np.asarray(variable, np.float64)
        if not np.isfinite(value).all():
            held = "NaN" if np.isnan(value).any() else "infinite values"
            found.append(f"{variable.path} holds {held}")
    return found
