"""What each setting is: its key, type, range, default and meaning, from the fields and docstrings of the schemas."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin, get_type_hints

from launcher.core.ranges import ranges, takes

SENTENCE = re.compile(r"(?<=[.;]) (?=[A-Z`])")

GOES_ON = re.compile(r"(It|They|Null:|Empty:|Without,|Such a) ")
"""How a sentence begins that goes on about the key of the one before it."""

OWN_DEFAULTS = "its own defaults"


@dataclass(frozen=True)
class Setting:
    """A key below its group, and what it takes; ``default`` is ``required`` where there is none."""

    key: str
    type: str
    range: str
    default: str
    meaning: str


def settings_of(cls: type, prefix: str = "", *, deep: bool = True) -> Iterator[Setting]:
    """Yield the settings of a schema, and those of the groups within it; a group is one entry without ``deep``."""
    hints, limits, words = get_type_hints(cls), ranges(cls), takes(cls)
    for field in fields(cls):
        hint = hints[field.name]
        if deep and _is_group(hint):
            yield from settings_of(hint, f"{prefix}{field.name}.")
        else:
            yield Setting(
                key=f"{prefix}{field.name}",
                type=words.get(field.name) or type_of(hint),
                range=str(limits.get(field.name, "")),
                default=default_of(field),
                meaning=_joined(meaning_of(cls, field.name), _values(hint)),
            )


def inner_groups(cls: type) -> Iterator[type]:
    """Yield the schemas of the groups of settings within a schema, at any depth."""
    for hint in get_type_hints(cls).values():
        if _is_group(hint):
            yield hint
            yield from inner_groups(hint)


def _is_group(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and is_dataclass(hint)


def meaning_of(cls: type, name: str) -> str:
    """Return the sentences about a key, of a schema's docstring or of the nearest base that has some."""
    return next(filter(None, (_sentences(base, name) for base in cls.__mro__)), "")


def _sentences(cls: type, name: str) -> str:
    """Return the sentences that name a key, each with those after it that go on about it."""
    said: list[str] = []
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        before = False
        for sentence in SENTENCE.split(" ".join(paragraph.split())):
            before = f"``{name}``" in sentence or (before and GOES_ON.match(sentence) is not None)
            said += [sentence] if before else []
    return " ".join(said).replace("``", "`").removesuffix(";")


def _values(hint: Any) -> str:
    """Return what the values of an enumeration mean, where its docstring names most of them."""
    kind = next((each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, Enum)), None)
    if kind is None:
        return ""
    said, values = inspect.getdoc(kind) or "", [f"``{member.value}``" for member in kind]
    named = sum(value in said for value in values)
    return " ".join(said.split()).replace("``", "`") if 2 * named > len(values) else ""


def _joined(first: str, second: str) -> str:
    return f"{first.rstrip('.')}. {second}" if first and second else first or second


def about(cls: type) -> str:
    """Return the first paragraph of a schema's docstring."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()).replace("``", "`")


def type_of(hint: Any) -> str:
    """Return the name of a type; of an enumeration, its values."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(member.value for member in hint)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(type_of, get_args(hint)))
    if inner := get_args(hint):
        return f"{get_origin(hint).__name__}[{', '.join(map(type_of, inner))}]"
    if hint is Any:
        return "any value"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def default_of(field: Field[object]) -> str:
    """Return a field's default as one writes it on the command line, or ``required``."""
    if field.default_factory is not MISSING:
        value: object = field.default_factory()
        return _written(value) if isinstance(value, list | dict) else OWN_DEFAULTS
    if field.default is MISSING or field.default == "???":
        return "required"
    return _written(field.default)


def _written(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
