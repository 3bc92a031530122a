"""Which class vouches for what a layer computes, and so for the bound that it states."""

from __future__ import annotations

import math
import numbers

import numpy as np
import tensorflow as tf

from tf_iresnet.typing import Bounded

# What a class may define and still compute what its base does.
_HARMLESS = frozenset(
    (
        "__init__",
        "__doc__",
        "__module__",
        "__qualname__",
        "__dict__",
        "__weakref__",
        "__repr__",
        "__str__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__type_params__",
        "__orig_bases__",
        "__parameters__",
        "__abstractmethods__",
        "_abc_impl",
        "__firstlineno__",
        "__static_attributes__",
        "get_config",
        "from_config",
    )
)
# Methods that Keras itself replaces on instances; none of them computes an output.
_OF_KERAS = frozenset(("build", "quantize", "loss"))


def describe(thing: object) -> str:
    """Returns a layer's class and name, for messages."""
    kind, name = type(thing).__name__, getattr(thing, "name", None)
    return f"{kind} {name!r}" if isinstance(name, str) else kind


def behaviour_of(kind: type) -> type:
    """Returns the class that says what ``kind`` computes.

    It is the most derived one that defines more than a constructor and a configuration.

    Example:
    >>> class Named(dict):
    ...     def __init__(self):
    ...         super().__init__(name="named")
    >>> behaviour_of(Named) is dict
    True
    """
    return next(base for base in kind.__mro__ if _own(base) or base is object)


def _own(base: type) -> list[str]:
    """Returns the names by which a class may change what its base computes."""
    return [name for name in vars(base) if name not in _HARMLESS]


def definer(kind: type, name: str) -> type | None:
    """Returns the class whose attribute ``name`` the instances of ``kind`` have, or None."""
    return next((base for base in kind.__mro__ if name in vars(base)), None)


def comes_first(kind: type, name: str, other: str) -> bool:
    """Says whether ``name`` is defined in a class at least as derived as ``other`` is.

    Only then can ``name`` take into account what ``other`` does.
    """
    first, second = definer(kind, name), definer(kind, other)
    order = kind.__mro__
    return first is not None and (second is None or order.index(first) <= order.index(second))


def check_not_replaced(thing: object) -> None:
    """Refuses an instance of which a method was replaced.

    Raises:
      ValueError: if one was: then no class tells what the instance does.
    """
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in _OF_KERAS or not callable(value):
            continue
        base = definer(type(thing), name)
        if base is not None and callable(getattr(base, name)):
            raise ValueError(
                f"{describe(thing)} has had its {name}() replaced, so that its class does not tell "
                "what it computes; write a subclass with its own lipschitz_bound()."
            )


def check_vouched(thing: object, method: str) -> None:
    """Refuses an object whose class does not vouch for what it computes.

    A class that changes what a layer computes must state its bound there, or in a more derived
    class: an inherited bound speaks of the base.

    Args:
      thing: a layer or an activation.
      method: the name of the method that states the bound.

    Raises:
      ValueError: if there is no such method, or it is inherited by a class that changes what is
        computed.
    """
    check_not_replaced(thing)
    kind = type(thing)
    base, behaviour = definer(kind, method), behaviour_of(kind)
    what = "Lipschitz constant" if method == "lipschitz_bound" else "bound of its inverse"
    if base is None or not callable(getattr(kind, method)):
        raise ValueError(
            f"{describe(thing)} has no known {what}; use layers and activations of tf_iresnet, or "
            f"give its class a method {method}()."
        )
    order = kind.__mro__
    if order.index(base) > order.index(behaviour):
        raise ValueError(
            f"{describe(thing)} has no known {what}: {behaviour.__name__} defines "
            f"{', '.join(sorted(_own(behaviour)))}, of which the {method}() that it inherits from "
            f"{base.__name__} knows nothing; define {method}() in {behaviour.__name__} too."
        )


def own_bound(thing: Bounded) -> float:
    """Returns the Lipschitz constant that an object's own class states.

    Args:
      thing: a layer or an activation with ``lipschitz_bound()``.

    Raises:
      ValueError: if its class does not vouch for it, or the bound is no number of at least 0.
    """
    check_vouched(thing, "lipschitz_bound")
    return check_bound(thing, "lipschitz_bound", thing.lipschitz_bound())


def check_bound(thing: object, method: str, value: tf.Tensor | float) -> float:
    """Returns a stated bound as a float, at least 0.

    Raises:
      ValueError: if it is none. Only the bound of an inverse may be infinite.
    """
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable)) and value.shape == ():
        value = np.asarray(value).item()
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    finite = real and math.isfinite(value)
    if not (finite and value >= 0) and not (real and value == math.inf and "inverse" in method):
        raise ValueError(
            f"{method}() of {describe(thing)} must return a finite number of at least 0, got "
            f"{value!r}."
        )
    return float(value)
