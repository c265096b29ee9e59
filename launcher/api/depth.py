"""Bounds how deep a grammar may lead: llguidance recurses, and a chain of thousands of rules ends the whole process."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from launcher.api.endless import used_references
from launcher.core.types import Json

MOST_RULES, MOST_LEVELS = 1500, 1500
"""About half of what a thread with a stack of 8 MB survives."""
RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w.-]*[^:\n]*:|[(\[]", re.MULTILINE)
EMBEDDED = re.compile(r"%json\s*(?=[{\[])")


def too_deep(grammar: str) -> str | None:
    """Return why a grammar, with the schemas in it, could lead too deep; None if it cannot."""
    if sum(1 for _ in RULE.finditer(grammar)) > MOST_RULES:
        return f"it has more than {MOST_RULES} rules and brackets"
    for found in EMBEDDED.finditer(grammar):
        try:
            schema = json.JSONDecoder().raw_decode(grammar, found.end())[0]
        except (ValueError, RecursionError):
            continue
        if (problem := schema_too_deep(schema)) is not None:
            return problem
    return None


def schema_too_deep(schema: Json) -> str | None:
    """Return why a schema could lead too deep: by the levels of all definitions in use that refer to others."""
    targets = dict(used_references(schema)).values() if isinstance(schema, Mapping) else ()
    levels = sum(_levels(target) for target in targets if '"$ref"' in json.dumps(target))
    if levels > MOST_LEVELS:
        return f"its definitions that refer to others have more than {MOST_LEVELS} levels in all"
    return None


def _levels(value: Json) -> int:
    """Return how many objects and arrays are in one another."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)
