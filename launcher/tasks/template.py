"""Renders a jinja template over the fields of an item."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json
from launcher.tasks.items import Item

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment


Parts = tuple[tuple[str, str | None], ...]
"""What a template of texts and fields consists of: texts, and names of fields beside an empty text."""
TEXTS, PLAIN = frozenset({str}), frozenset({str, int})
RESERVED = frozenset({"self", "super", "caller", "loop", "varargs", "kwargs"})
"""Names that mean something else to jinja in some templates."""


def render(source: str, item: Item) -> str:
    """Return ``source`` with the item's fields filled in, every newline kept as written.

    A field whose name is no word, such as "right answer", is ``item["right answer"]``.

    Raises `TaskError` that names the item's place and what is missing or wrong in the template.
    """
    parts = _parts(source)
    if parts is not None and (made := _filled(parts, item.fields)) is not None:
        return made
    template = _compiled(source)
    with _named(source, item):
        return template.render({"item": item.fields, **item.fields})


def value(source: str, item: Item) -> Json:
    """Return what ``source`` says: the field of a dotted path, or what a template makes.

    A template that is one expression keeps the kind of its value: ``{{answer|int - 1}}`` gives a number, and
    ``{{[a, b]}}`` a list. Raises `TaskError` as `render` does.
    """
    if not is_template(source):
        return item.get(source)
    if (name := _only_field(source)) is not None and name in item.fields:
        return item.fields[name]
    expression = _expression(source)
    if expression is None:
        return render(source, item)
    with _named(source, item):
        found = expression({"item": item.fields, **item.fields})
        return str(found) if isinstance(found, _undefined()) else found  # the text of what is undefined is an error


def text(found: Json, where: str, what: str) -> str:
    """Return a value as a template writes it. Raises `TaskError` for null, lists, objects and bytes."""
    try:
        return str(_written(found))
    except ValueError as error:
        raise TaskError(f"{where}: {what}: {error}") from None


def is_template(source: str) -> bool:
    return "{{" in source or "{%" in source


def check_template(source: str, key: str) -> None:
    """Raise `UserError` for a template that cannot be used."""
    try:
        _compiled(source)
    except TaskError as error:
        raise UserError(f"tasks: {key}: {error}") from None


def _filled(parts: Parts, fields: Mapping[str, Json]) -> str | None:
    """Return a template with texts and whole numbers in the places of its fields; None where jinja has to decide."""
    found: list[Any] = [text if name is None else fields.get(name) for text, name in parts]
    kinds = set(map(type, found))
    if kinds <= TEXTS:
        return "".join(found)
    return "".join(map(str, found)) if kinds <= PLAIN else None


@contextmanager
def _named(source: str, item: Item) -> Iterator[None]:
    """Turn errors of a template into a `TaskError` with the item's place."""
    from jinja2 import TemplateError, UndefinedError

    try:
        yield
    except UndefinedError as error:
        raise TaskError(f"{item.where}: {error.message} (template {source!r}); the item has {item.names()}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TaskError(f"{item.where}: template {source!r}: {error}") from error


@cache
def _parts(source: str) -> Parts | None:
    """Return the texts and fields of a template that has nothing else; None for any other.

    Jinja takes twenty times as long to fill them in.
    """
    from jinja2 import nodes

    _compiled(source)
    found: list[tuple[str, str | None]] = []
    for statement in _environment().parse(source).body:
        if not isinstance(statement, nodes.Output):
            return None
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                found.append((node.data, None))
            elif isinstance(node, nodes.Name) and node.name not in RESERVED:
                found.append(("", node.name))
            else:
                return None
    return tuple(found)


@cache
def _only_field(source: str) -> str | None:
    """Return the field that is all of a template; None for any other."""
    parts = _parts(source)
    return parts[0][1] if parts is not None and len(parts) == 1 else None


@cache
def _expression(source: str) -> Callable[..., Json] | None:
    """Return the expression that is all of a template; None for other templates."""
    from jinja2 import nodes

    _compiled(source)
    body = _environment().parse(source).body
    alone = len(body) == 1 and isinstance(body[0], nodes.Output) and len(body[0].nodes) == 1
    if not alone or isinstance(body[0].nodes[0], nodes.TemplateData):  # type: ignore[attr-defined]
        return None
    inner = source.strip().removeprefix("{{").removesuffix("}}").removeprefix("-").removesuffix("-")
    return _environment().compile_expression(inner, undefined_to_none=False)


def _undefined() -> type:
    from jinja2 import Undefined

    return Undefined


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_written
    )
    environment.filters["regex_replace"] = _regex_replace
    return environment


def _regex_replace(text: str, pattern: str, new: str = "") -> str:
    """Replace each match, as the filter of this name in lm-evaluation-harness does."""
    try:
        return re.sub(pattern, new, text)
    except re.error as error:
        raise ValueError(f"regex_replace: {pattern!r}: {error}") from None


def _written(value: object) -> object:
    """Refuse a value that jinja would write as Python code, and one that is missing; write booleans as JSON does."""
    if value is None or isinstance(value, list | tuple | Mapping | bytes):
        names = {bytes: "bytes", list: "a list", tuple: "a list"}
        kind = "null" if value is None else names.get(type(value), "an object")
        raise ValueError(f"a value is {kind}, expected a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a value is {value}, as of a missing number; expected a text or a finite number")
    return str(value).lower() if isinstance(value, bool) else value


@cache
def _compiled(source: str) -> Template:
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise TaskError(f"template {source!r}: line {error.lineno}: {error.message}") from None
