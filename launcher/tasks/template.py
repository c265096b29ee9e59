"""Renders a jinja template over the fields of an item."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from launcher.core.errors import TaskError
from launcher.tasks.items import Item

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment


def render(source: str, item: Item) -> str:
    """Return ``source`` with the item's fields filled in, every newline kept as written.

    Raises `TaskError` that names the item's place and what is missing or wrong in the template.
    """
    from jinja2 import TemplateError, UndefinedError

    template = _compiled(source)
    try:
        return template.render(item.fields)
    except UndefinedError as error:
        raise TaskError(f"{item.where}: {error.message} (template {source!r}); the item has {item.names()}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TaskError(f"{item.where}: template {source!r}: {error}") from error


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_written
    )


def _written(value: object) -> object:
    """Refuse a value that jinja would write as Python code, and one that is missing; write booleans as JSON does."""
    if value is None or isinstance(value, list | dict):
        kind = "null" if value is None else "a list" if isinstance(value, list) else "an object"
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
