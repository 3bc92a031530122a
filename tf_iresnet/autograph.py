"""Spares `tf.function` the translation of this library by AutoGraph: seconds for each layer."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

F = TypeVar("F", bound=Callable[..., Any])


def as_written(function: F) -> F:
    """Marks a function for tracing as it is written: it branches on no tensor's value.

    Returns:
      The same object: unlike a wrapper it keeps its docstring's examples where tools find them.
    """
    marked = tf.autograph.experimental.do_not_convert(function)
    marks = vars(marked).keys() - {"__wrapped__"}
    vars(function).update({name: vars(marked)[name] for name in marks})
    return function


class AsWritten:
    """Base of classes whose public methods are traced as they are written.

    Methods of subclasses in other packages are translated: they may rely on AutoGraph.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.split(".")[0] == __package__:
            for name, member in vars(cls).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    as_written(member)
