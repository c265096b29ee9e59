"""Places in a JSON document: ``$.results.acc``, ``runs[0].score`` or ``$['a.b']``."""

from __future__ import annotations

import re

from launcher.core.errors import UserError
from launcher.core.types import Json

STEP = re.compile(r"\.?([^.\[\]'\"]+)|\[(-?\d+)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]")
SHOWN = 8
"""How many names of an object a message lists."""

Steps = tuple[str | int, ...]


def parse(text: str) -> Steps:
    """Return the names and numbers that lead to a place. Raises `UserError` for anything else."""
    rest, steps = text.strip().removeprefix("$"), list[str | int]()
    while rest:
        found = STEP.match(rest)
        if found is None:
            raise UserError(f"{text!r} is no path; expected one such as $.results.acc, $.runs[0].score or $['a.b']")
        name, index, single, double = found.groups()
        steps.append(int(index) if index is not None else next(n for n in (name, single, double) if n is not None))
        rest = rest[found.end() :]
    return tuple(steps)


def find(document: Json, text: str) -> Json:
    """Return what stands at a path. Raises `LookupError` that says how far the path leads."""
    value, path = document, "$"
    for step in parse(text):
        key = int(step) if isinstance(value, list) and isinstance(step, str) and step.isdigit() else step
        try:
            value = value[key] if isinstance(value, list) is isinstance(key, int) else _nothing()
        except (LookupError, TypeError):
            raise LookupError(f"{text}: {path} is {_described(value)}, without {key!r}") from None
        path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return value


def _nothing() -> Json:
    raise LookupError


def _described(value: Json) -> str:
    if isinstance(value, dict):
        names = ", ".join(map(str, list(value)[:SHOWN])) + (", ..." if len(value) > SHOWN else "")
        return f"an object of {names}" if value else "an empty object"
    return f"a list of {len(value)}" if isinstance(value, list) else repr(value)[:40]
