"""Checks of constructors' arguments: each error names the argument, its value and what is due."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard, TypeVar

import numpy as np

T = TypeVar("T")


def is_real(value: object) -> TypeGuard[float]:
    """Says whether a value is a real number of Python or NumPy, but no truth value and not NaN."""
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(value, (numbers.Real, np.floating, np.integer)):
        return False
    return not isinstance(value, (bool, np.bool_)) and not math.isnan(value)


def check_integer(name: str, value: object, least: int | None = None, instead: str = "") -> int:
    """Returns an argument as an integer.

    Args:
      name: of the argument.
      value: as given; NumPy's integers and whole floats, such as 3.0, are accepted.
      least: the smallest that is allowed; None for no limit.
      instead: what else is allowed, in words that end the requirement.

    Raises:
      ValueError: if the value is no integer, or too small.

    Example:
    >>> check_integer("hidden", np.int64(3), 1)
    3
    """
    if not (is_real(value) and math.isfinite(value) and value == value // 1) or (
        least is not None and value < least
    ):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be an integer{bound}{instead}, got {value!r}.")
    return int(value)


def check_real(name: str, value: object, due: str, within: Callable[[float], bool]) -> float:
    """Returns an argument as a float.

    Args:
      name: of the argument.
      value: as given.
      due: what it must be, in words, as "must lie in (0, 1)".
      within: says whether a number is allowed.

    Raises:
      ValueError: if the value is no finite number, or not allowed.

    Example:
    >>> check_real("ridge", np.float32(0.5), "must be above 0", lambda value: value > 0)
    0.5
    """
    if not is_real(value) or not math.isfinite(value) or not within(float(value)):
        raise ValueError(f"{name} {due}, got {value!r}.")
    return float(value)


def check_alpha(value: object) -> float:
    """Returns the share of a range that a preprocessing keeps from its ends.

    Raises:
      ValueError: if it does not lie in (0, 0.5).
    """
    return check_real("alpha", value, "must lie in (0, 0.5)", lambda alpha: 0.0 < alpha < 0.5)


def check_flag(name: str, value: object) -> bool:
    """Returns an argument that is True or False.

    Raises:
      ValueError: if it is neither.

    Example:
    >>> check_flag("actnorm", np.True_)
    True
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def check_choice(name: str, value: T, choices: Sequence[str | None]) -> T:
    """Returns an argument that is one of some names, or None where that is among them.

    Raises:
      ValueError: if the value is none of them.

    Example:
    >>> check_choice("padding", "same", ("same", "valid"))
    'same'
    """
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}.")
    return value


def check_integers(name: str, values: object, each: str) -> tuple[int, ...]:
    """Returns an argument that holds positive integers, at least one, as a tuple.

    Args:
      name: of the argument.
      values: as given.
      each: what each integer belongs to, in words.

    Raises:
      ValueError: if it is empty, or holds anything else.
    """
    try:
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ValueError
        numbers_ = tuple(check_integer(name, value, 1) for value in values)
        if not numbers_:
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} must hold an integer of at least 1 for each {each}, got {values!r}."
        ) from None
    return numbers_


def check_sizes(name: str, sizes: object, rank: int) -> tuple[int, ...]:
    """Returns a positive integer for each of some axes, given as one for all or one for each.

    Raises:
      ValueError: if the argument is neither.

    Example:
    >>> check_sizes("kernel_size", 3, 2)
    (3, 3)
    """
    values = (sizes,) * rank if is_real(sizes) else sizes
    try:
        checked = check_integers(name, values, "axis")
    except ValueError:
        checked = ()
    if len(checked) != rank:
        raise ValueError(
            f"{name} must be an integer of at least 1 or {rank} of them, got {sizes!r}."
        )
    return checked


def check_widths(hidden: object, scales: int) -> int | tuple[int, ...]:
    """Returns the hidden channels, one number or one for each scale.

    Raises:
      ValueError: if they are neither.
    """
    if is_real(hidden) or not isinstance(hidden, Iterable):
        return check_integer("hidden", hidden, 1)
    widths = check_integers("hidden", hidden, "scale")
    if len(widths) != scales:
        raise ValueError(
            f"hidden must be one integer or one for each of the {scales} scales of blocks, got "
            f"{hidden!r}."
        )
    return widths


def widths_of_scales(hidden: int | tuple[int, ...], scales: int) -> tuple[int, ...]:
    """Returns the hidden channels of each scale."""
    return (hidden,) * scales if isinstance(hidden, int) else hidden


def check_instance(name: str, value: T, kind: type, such_as: str) -> T:
    """Returns an argument that is an instance of a class.

    Args:
      name: of the argument.
      value: as given.
      kind: the class.
      such_as: an example of an instance, in code.

    Raises:
      ValueError: if it is none.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(
            f"{name} must be {article} {kind.__name__} such as {such_as}, got {value!r}."
        )
    return value


def check_instances(name: str, values: Iterable[T], kind: type, what: str) -> list[T]:
    """Returns an argument that holds objects of a kind, at least one, as a list.

    Args:
      name: of the argument.
      values: as given.
      kind: the class of the objects.
      what: what one of them is, in words, such as "invertible layer".

    Raises:
      ValueError: if it holds none, or something else.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list of {what}s, got {values!r}.")
    values = list(values)
    if not values:
        raise ValueError(f"{name} must hold at least one {what}, got none.")
    for value in values:
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} must be {what}s of tf_iresnet, got {type(value).__name__}: {value!r}."
            )
    return values


def check_by(name: str, value: object, get: Callable[[Any], T], due: str) -> T:
    """Returns the object that Keras makes of an argument, such as the activation of a name.

    Args:
      name: of the argument.
      value: as given.
      get: Keras' function, which raises for what it does not know.
      due: what it must be, in words.

    Raises:
      ValueError: if Keras makes nothing of it.

    Example:
    >>> import keras
    >>> due = "an activation of Keras, by name or as a function"
    >>> check_by("activation", "relu", keras.activations.get, due).__name__
    'relu'
    """
    if value is None:
        return get(None)
    try:
        made = get(value)
    except (ValueError, TypeError, AttributeError, KeyError):
        made = None
    if not callable(made):
        raise ValueError(f"{name} must be {due}, got {value!r}.")
    return made
