"""Cycles are looked for rarely within a block, and as before behind it."""

from __future__ import annotations

import gc

from launcher.core.garbage import ALLOCATIONS, collected_rarely


def test_the_collector_is_as_before_behind_the_block() -> None:
    before = gc.get_threshold()
    with collected_rarely():
        assert gc.get_threshold() == (max(ALLOCATIONS, before[0]), *before[1:])
        assert gc.get_freeze_count()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()
