"""Options as values: each is declared once, and every constructor that takes it shows it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Self, TypeVar

import keras

from tf_iresnet.arguments import check_instance
from tf_iresnet.typing import Config

T = TypeVar("T")
Kind = TypeVar("Kind", bound="Options")


def option(default: T, check: Callable[[str, Any], object], **more: Any) -> T:
    """Declares an option as a field of a subclass of `Options`.

    Args:
      default: its value where nothing else is said.
      check: a function of (name, value) that returns the value to keep, or raises `ValueError`.
      **more: of `dataclasses.field`.
    """
    return dataclasses.field(default=default, metadata={"check": check}, **more)


@dataclasses.dataclass(frozen=True)
class Options:
    """A set of options, checked when it is made.

    A subclass is a frozen dataclass whose fields are made by `option`.

    Raises:
      ValueError: if an option is out of range; the message names it.

    Example:
    >>> import dataclasses
    >>> from tf_iresnet.arguments import check_integer
    >>> from tf_iresnet.options import Options, option
    >>> @dataclasses.dataclass(frozen=True)
    ... class Size(Options):
    ...     width: int = option(8, check_integer)
    >>> Size(width=3.0)
    Size(width=3)
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "check" in field.metadata:
                value = field.metadata["check"](field.name, getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def part(self, kind: type[Kind]) -> Kind:
        """Returns those options that are of a kind, a base of this one."""
        return kind(**{name: getattr(self, name) for name in kind.names()})

    def keep_on(self, owner: object) -> None:
        """Makes each option an attribute of its owner."""
        for name in self.names():
            setattr(owner, name, getattr(self, name))

    @classmethod
    def config_of(cls, owner: object) -> Config:
        """Returns an owner's options for Keras' files: numbers, names and serialised objects."""
        return {name: _serialize(getattr(owner, name)) for name in cls.names()}

    def get_config(self) -> Config:
        """Returns the options for Keras' files."""
        return self.config_of(self)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Makes the options from what `get_config` returned."""
        return cls(**restore(config))


def restore(config: Config) -> Config:
    """Returns a configuration with the objects in it that were serialised."""
    return {
        name: keras.saving.deserialize_keras_object(value)
        if isinstance(value, dict) and "class_name" in value
        else value
        for name, value in config.items()
    }


def _serialize(value: object) -> object:
    plain = value is None or isinstance(value, (bool, int, float, str, tuple))
    return value if plain else keras.saving.serialize_keras_object(value)


def takes(
    kind: type[Options], argument: str = "options", base: type | None = None, **defaults: object
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a constructor take options as keywords beside its own.

    The constructor is called with the options as a value, under the name of ``argument``. A caller
    may give such a value as well; keywords then replace single options of it.

    Args:
      kind: the options.
      argument: the name of the constructor's argument.
      base: a class whose constructor takes the remaining keywords; the signature shows them, too.
      **defaults: defaults that replace those which ``kind`` declares.

    Example:
    >>> import dataclasses
    >>> from tf_iresnet.arguments import check_integer
    >>> from tf_iresnet.options import Options, option, takes
    >>> @dataclasses.dataclass(frozen=True)
    ... class Size(Options):
    ...     width: int = option(8, check_integer)
    >>> class Layer:
    ...     @takes(Size, width=16)
    ...     def __init__(self, name, *, options):
    ...         self.width = options.width
    >>> Layer("a").width, Layer("b", width=4).width, Layer("c", options=Size()).width
    (16, 4, 8)
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def construct(self: Any, *args: Any, **kwargs: Any) -> None:
            given = {name: kwargs.pop(name) for name in kind.names() if name in kwargs}
            value = kwargs.pop(argument, None)
            if value is None:
                value = kind(**{**defaults, **given})
            else:
                check_instance(argument, value, kind, f"{kind.__name__}()")
                value = dataclasses.replace(value, **given)
            init(self, *args, **{argument: value}, **kwargs)

        vars(construct)["__signature__"] = _signature(init, kind, argument, base, defaults)
        return construct

    return decorate


def _signature(
    init: Callable[..., None],
    kind: type[Options],
    argument: str,
    base: type | None,
    defaults: Config,
) -> inspect.Signature:
    """Returns the constructor's signature with the options among its keywords."""
    keyword, rest = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
    signature = inspect.signature(init)
    shown = {name: p for name, p in signature.parameters.items() if name != argument}
    more = [p for p in shown.values() if p.kind is rest]
    shown = {name: p for name, p in shown.items() if p.kind is not rest}
    for field in dataclasses.fields(kind):
        default = defaults.get(field.name, field.default)
        shown[field.name] = inspect.Parameter(
            field.name, keyword, default=default, annotation=field.type
        )
    if base is not None:
        inherited = inspect.signature(vars(base)["__init__"]).parameters
        for name, parameter in inherited.items():
            if parameter.kind is keyword:
                shown.setdefault(name, parameter)
    shown[argument] = inspect.Parameter(argument, keyword, default=None)
    return signature.replace(parameters=[*shown.values(), *more])
