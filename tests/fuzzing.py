"""How many examples a property-based test draws: few in `make test`, many in `make soak`."""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("SOAK"))
FACTOR = 20


def examples(few: int) -> int:
    """Return the number of examples of a test that draws ``few`` in `make test`."""
    return few * FACTOR if SOAK else few
