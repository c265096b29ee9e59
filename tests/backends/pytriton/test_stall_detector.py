from __future__ import annotations

from launcher.backends.pytriton.stall_detector import StallDetector
from launcher.engines.base import EngineState


def test_what_counts_is_how_long_nothing_has_changed() -> None:
    now, state = [0.0], [EngineState()]
    found = StallDetector(lambda: state[0], lambda: now[0])
    asked = [
        (0, EngineState(), 0, False),
        (9, EngineState(), 9, False),
        (10, EngineState(running=1), 0, True),
        (15, EngineState(running=2, queued=1), 5, True),
        (20, EngineState(running=2, steps=1), 0, True),
        (30, EngineState(running=2, steps=1, error="broken"), 0, True),
        (31, EngineState(steps=1), 0, False),
    ]
    for time, each, unchanged_s, busy in asked:
        now[0], state[0] = float(time), each
        assert (found.unchanged_s(), found.busy) == (unchanged_s, busy)
