"""A run whose evaluator and server are killed at random moments, and resumed, comes to what an undisturbed one does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.pipeline.killed_runs import INCOMPLETE, Kind, finished, lines, moments, results, rows, struck, written

SEED = int(os.environ.get("KILL_SEED", "1"))


def disturbed(place: Path, kind: Kind, count: int) -> None:
    """Kill a run ``count`` times, and compare what it comes to with an undisturbed one."""
    whole, folder = place / "whole", place / "run"
    assert finished(place, *kind.arguments(), f"hydra.run.dir={whole}") == 0
    total = lines(whole)
    parties = ["evaluator"] if kind.backend == "inline" else ["server", "evaluator"]
    started = False
    for moment in moments(SEED, count, total, parties):
        print(f"KILL_SEED={SEED}: {moment} of {total}")
        begin = [f"resume={folder}"] if started else [*kind.arguments(), f"hydra.run.dir={folder}"]
        code = struck(place, moment, folder, signal.SIGKILL, *begin)
        print(f"exit code {code}")
        assert code in (0, -signal.SIGKILL, INCOMPLETE, 1), code
        started = folder.exists()
    assert finished(place, f"resume={folder}") == 0
    assert rows(folder) == rows(whole)
    assert results(folder) == results(whole)


@pytest.mark.slow
def test_a_run_that_is_killed_twice(tmp_path: Path) -> None:
    disturbed(written(tmp_path), Kind("inline", "echo", lm_eval=False), 2)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["inline", "command"])
def test_a_run_that_is_killed_at_ten_moments(tmp_path: Path, backend: str) -> None:
    disturbed(written(tmp_path), Kind(backend, "tiny", lm_eval=True), 10)


@pytest.mark.soak
def test_a_server_that_hangs_ends_the_session_and_a_later_one_goes_on(tmp_path: Path) -> None:
    """It takes connections and answers nothing, as one that is stopped or swaps."""
    place, kind = written(tmp_path), Kind("command", "echo", lm_eval=False)
    whole, folder = place / "whole", place / "run"
    assert finished(place, *kind.arguments(), f"hydra.run.dir={whole}") == 0
    impatient = ("evaluate.max_pause_s=2", "evaluate.timeout_s=2")
    [moment] = moments(SEED, 1, lines(whole) - 10, ["server"])
    asked = [*kind.arguments(), *impatient, f"hydra.run.dir={folder}"]
    assert struck(place, moment, folder, signal.SIGSTOP, *asked) == INCOMPLETE
    assert lines(folder) < lines(whole)
    assert finished(place, f"resume={folder}", "evaluate.max_pause_s=600", "evaluate.timeout_s=600") == 0
    assert rows(folder) == rows(whole)
    assert results(folder) == results(whole)
