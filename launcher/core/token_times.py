"""The headers by which a server of the launcher says when it had the tokens of a whole answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

FIRST = "x-time-to-first-token-ms"
"""From when the request was read to its first token."""
EACH = "x-time-per-token-ms"
"""The time per token after the first, of an answer with one choice."""
SLOWEST_MS = 1e9


def as_headers(first_s: float, last_s: float, tokens: int | None) -> dict[str, str]:
    """Return the headers of an answer whose first and last token came after so many seconds.

    ``tokens`` is None where the time of each is not known.
    """
    found = {FIRST: f"{1000 * first_s:.3f}"}
    if tokens is not None and tokens > 1:
        found[EACH] = f"{1000 * (last_s - first_s) / (tokens - 1):.4f}"
    return found


def seconds(headers: Mapping[str, str], name: str) -> float | None:
    """Return the time that a header says, None where it is missing or not a time."""
    if name not in headers:
        return None
    try:
        found = float(headers[name])
    except ValueError:
        return None
    return found / 1000 if math.isfinite(found) and 0 <= found <= SLOWEST_MS else None
