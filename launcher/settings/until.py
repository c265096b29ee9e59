"""When an evaluation may stop: ``evaluate.until``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.core.errors import UserError

KEY = "evaluate.until"
FORMS = "expected width:W with W above 0, such as width:0.02, or for each task {gsm8k: width:0.02, mmlu: width:0.01}"


def widths(until: Any, names: Iterable[str]) -> dict[str, float]:
    """Return how narrow the interval of each task or group is to be; one that is not named is asked whole.

    ``until`` is one width for all ``names``, or a mapping of some of them to widths. Raises `UserError`.
    """
    known = list(names)
    if until is None:
        return {}
    if not isinstance(until, Mapping) or (list(until) == ["width"] and "width" not in known):
        return dict.fromkeys(known, _width(until, KEY))
    for name in until:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"{KEY}: {name}: no such task or group{guess}; expected one of {', '.join(known)}")
    return {str(name): _width(value, f"{KEY}.{name}") for name, value in until.items()}


def _width(value: Any, key: str) -> float:
    """Read ``width:0.02``, the mapping that YAML makes of ``width: 0.02``, or the number alone."""
    if isinstance(value, Mapping) and list(value) == ["width"]:
        value = value["width"]
    text = str(value).strip()
    number = text.removeprefix("width:").strip()
    try:
        width = float(number)
    except ValueError:
        width = math.nan
    if isinstance(value, bool) or not (0 < width < math.inf):
        raise UserError(f"{key}={text}: {FORMS}")
    return width
