"""Silence is the sum of the watcher's own waits."""

from __future__ import annotations

import time

import pytest

from launcher.core.heartbeat import SilenceTimer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_silence_grows_until_a_heartbeat(clock: list[float]) -> None:
    timer = SilenceTimer(longest_wait_s=2)
    clock[0] += 1
    assert timer.check() == 1
    clock[0] += 1.5
    assert timer.check() == 2.5
    clock[0] += 1
    timer.reset()
    clock[0] += 0.5
    assert timer.check() == 0.5


def test_time_in_which_the_watcher_was_suspended_is_no_silence(clock: list[float]) -> None:
    timer = SilenceTimer(longest_wait_s=2)
    clock[0] += 3600
    assert timer.check() == 2
