"""How much a test varies: a few examples and combinations in `make test`, many in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

SOAK = bool(os.environ.get("SOAK"))
FACTOR = 20


def examples(few: int) -> int:
    """Return the number of examples of a test that draws ``few`` in `make test`."""
    return few * FACTOR if SOAK else few


def combinations(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """Return all pairs as parameters; `make test` runs some of them, with each value at least once."""
    length = max(len(first), len(second))
    few = {(i % len(first), i % len(second)) for i in range(length)}
    return [
        pytest.param(one, other, marks=() if (i, j) in few else pytest.mark.soak)
        for i, one in enumerate(first)
        for j, other in enumerate(second)
    ]
