"""What is wrong with settings or a file: the place, the value, and what to give."""

import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from training.typing import Json, JsonObject

_Schema = JsonObject
_T = TypeVar("_T")


class Refusal(NamedTuple):
    """Something that a schema does not allow.

    Args:
      place: the names on the way to it, with dots between them; empty for the whole.
      problem: "value", "missing", "unknown" or "rule", which concerns several values.
      value: what is there.
      remedy: what to give, or of a rule what it says.
    """

    place: str
    problem: str
    value: Json
    remedy: str


def refusals(kind: TypeAdapter[_T], error: ValidationError) -> list[Refusal]:
    """Says what is wrong, once for each place.

    Of the members of a union, all of which complain, the one that came furthest speaks.

    Args:
      kind: what was validated.
      error: what the validation raised.
    """
    root = _root(kind)
    found: dict[str, Refusal] = {}
    for item in error.errors():
        refusal = _refusal(root, item)
        found.setdefault(refusal.place, refusal)
    return [
        refusal
        for place, refusal in found.items()
        if not any(_is_below(other, place) for other in found)
    ]


@functools.cache
def _root(kind: TypeAdapter[_T]) -> "_Root":
    return _Root(kind.json_schema())


class _Root:
    """A JSON schema and the definitions that it refers to."""

    def __init__(self, whole: _Schema) -> None:
        self.whole = whole
        self._definitions = whole.get("$defs", {})

    def resolved(self, schema: _Schema) -> _Schema:
        while "$ref" in schema:
            schema = self._definitions[schema["$ref"].rpartition("/")[2]]
        return schema

    def members(self, schema: _Schema) -> list[_Schema]:
        """The kinds that a schema allows; itself, if it is no union."""
        schema = self.resolved(schema)
        kinds = schema.get("anyOf") or schema.get("oneOf")
        return [schema] if kinds is None else [m for kind in kinds for m in self.members(kind)]

    def below(self, schema: _Schema, part: str | int) -> _Schema | None:
        """What a schema allows one step further; None where the step is no setting's name."""
        schema = self.resolved(schema)
        if "discriminator" in schema:
            tagged = schema["discriminator"]["mapping"].get(part)
            return None if tagged is None else self.resolved({"$ref": tagged})
        for member in self.members(schema):
            if isinstance(part, int) and "items" in member:
                return self.resolved(member["items"])
            if part in member.get("properties", {}):
                return self.resolved(member["properties"][part])
            if isinstance(member.get("additionalProperties"), dict):
                return self.resolved(member["additionalProperties"])
        return None


def _refusal(root: _Root, item: ErrorDetails) -> Refusal:
    schema, above, place = root.whole, root.whole, []
    for part in item["loc"]:
        tag = "discriminator" in root.resolved(schema)
        further = root.below(schema, part)
        if further is None and item["type"] != "extra_forbidden":
            continue  # the name of a union's member
        above, schema = schema, further or {}
        if not tag:
            place.append(str(part))
    name, kind, value = ".".join(place), item["type"], item["input"]
    if kind == "extra_forbidden":
        return Refusal(name, "unknown", value, _nearest(root, above, place))
    if kind == "value_error":
        return Refusal(name, "rule", value, item["msg"].removeprefix("Value error, "))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        chooser = root.resolved(schema)["discriminator"]
        name = ".".join([*place, chooser["propertyName"]])
        choices = _choices(list(chooser["mapping"]))
        if kind == "union_tag_not_found":
            return Refusal(name, "missing", None, choices)
        return Refusal(name, "value", value[chooser["propertyName"]], choices)
    return Refusal(
        name, "missing" if kind == "missing" else "value", value, _remedy(root, schema, value)
    )


def _remedy(root: _Root, schema: _Schema, value: Json) -> str:
    kinds = [kind for kind in root.members(schema) if kind.get("type") != "null"]
    tables = [kind for kind in kinds if kind.get("type") == "object"]
    words = [_noun(root, kind) for kind in kinds if kind not in tables]
    if tables:
        words.append("a table")
    if len(kinds) < len(root.members(schema)):
        words.append("none")
    for kind in kinds:  # a single value where there may be several
        if kind.get("type") == "array" and _fits(root.resolved(kind.get("items", {})), value):
            words[-1] += f", such as [{value!r}]"
    return ", or ".join(words)


def _fits(schema: _Schema, value: Json) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return schema.get("type") == "integer" and whole and value >= schema.get("minimum", value)


def _noun(root: _Root, schema: _Schema, many: bool = False) -> str:
    if "const" in schema or "enum" in schema:
        return _choices(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        least = "a list of one or more" if schema.get("minItems") else "a list of"
        items = root.resolved(schema.get("items", {}))
        return f"{least} {_noun(root, items, many=True)}"
    one, several = {
        "boolean": ("true or false", "true or false"),
        "integer": ("an integer", "integers"),
        "number": ("a number", "numbers"),
        "string": ("a text", "texts"),
        "object": ("a table", "tables"),
    }[kind or "object"]
    return " ".join([several if many else one, *_range(schema)])


def _range(schema: _Schema) -> Iterator[str]:
    bounds = (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "of at most"),
        ("exclusiveMaximum", "below"),
    )
    found = [f"{words} {schema[key]}" for key, words in bounds if key in schema]
    if found:
        yield " and ".join(found)


def _choices(values: Sequence[Json]) -> str:
    *some, last = map(repr, values)
    return f"{', '.join(some)} or {last}" if some else last


def _nearest(root: _Root, table: _Schema, place: list[str]) -> str:
    """Says which name was meant: one of the same table, or else one of another."""
    last = place[-1]
    here = [name for kind in root.members(table) for name in kind.get("properties", {})]
    close = difflib.get_close_matches(last, here, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    others = (path for path in _paths(root, root.whole) if path != ".".join(place))
    elsewhere = {path.rpartition(".")[2]: path for path in others}
    close = difflib.get_close_matches(last, elsewhere, n=1)
    if close:
        return f"did you mean {elsewhere[close[0]]!r}?"
    return f"there {'are' if len(here) > 1 else 'is'} {', '.join(dict.fromkeys(here))}"


def _paths(root: _Root, schema: _Schema, prefix: str = "") -> Iterator[str]:
    for kind in root.members(schema):
        for name, below in kind.get("properties", {}).items():
            yield from _paths(root, below, f"{prefix}{name}.")
            yield prefix + name


def _is_below(other: str, place: str) -> bool:
    return other != place and (not place or other.startswith(f"{place}."))


def shown(value: Json) -> str:
    """Writes a value as it is given on the command line, in at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
