"""Checks of what the models' constructors are given."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any


def checked_integer(name: str, value: Any, least: int | None = None) -> int:
    """Returns an argument as an integer.

    Raises:
      ValueError: if it is none, or too small.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or value != value // 1 or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be an integer{bound}, got {value!r}.")
    return int(value)


def checked_integers(name: str, values: Any, each: str) -> tuple[int, ...]:
    """Returns an argument that holds a positive integer for each of some things.

    Raises:
      ValueError: if it does not, or is empty.
    """
    try:
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ValueError
        numbers_ = tuple(checked_integer(name, value, 1) for value in values)
        if not numbers_:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{name} must hold an integer of at least 1 for each {each}, got {values!r}."
        ) from None
    return numbers_


def checked_widths(hidden: Any, scales: int) -> int | tuple[int, ...]:
    """Returns the hidden channels, one number or one for each scale.

    Raises:
      ValueError: if they are neither.
    """
    if isinstance(hidden, numbers.Real):
        return checked_integer("hidden", hidden, 1)
    widths = checked_integers("hidden", hidden, "scale")
    if len(widths) != scales:
        raise ValueError(
            f"hidden must be one integer or one for each of the {scales} scales of blocks, got "
            f"{hidden!r}."
        )
    return widths


def widths_of_scales(hidden: int | tuple[int, ...], scales: int) -> tuple[int, ...]:
    """Returns the hidden channels of each scale."""
    return (hidden,) * scales if isinstance(hidden, int) else hidden


def checked_instance(name: str, value: Any, kind: type, such_as: str) -> Any:
    """Returns an argument that is an object of a kind.

    Raises:
      ValueError: if it is not.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__} such as {such_as}, got {value!r}.")
    return value
