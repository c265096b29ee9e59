"""Lets Python look for reference cycles rarely while much is allocated that has none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 20_000
"""So many more objects than before are there when the youngest are looked through; Python's own value is 700.

An answer with log-probabilities has hundreds of objects, which leave without a look at them.
"""


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Look for cycles rarely in this block, and never among the objects from before it."""
    young, *older = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(max(young, ALLOCATIONS) if young else 0, *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
        gc.unfreeze()
