from __future__ import annotations

import io

import pytest
from rich.table import Table

from launcher.core.types import Status
from launcher.evaluate.progress import LineProgress, LiveProgress, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Two:
    """Two servers, one of which was lost."""

    def summary(self):
        return "2 of 2 replicas"

    def table(self):
        return Table("pid", "state")

    def losses(self):
        return ["lost one"]


class One(Two):
    """A server that says nothing of itself."""

    def summary(self):
        return ""

    def table(self):
        return None

    def losses(self):
        return []


def test_a_terminal_gets_a_bar_and_a_file_gets_lines():
    assert isinstance(progress(One(), Terminal()), LiveProgress)
    assert isinstance(progress(One(), io.StringIO()), LineProgress)


def test_a_line_about_every_tenth(record):
    out = io.StringIO()
    shown = LineProgress(One(), out)
    shown.started(40, 0)
    for i in range(40):
        shown.advanced(record(f"t/{i}/0", Status.scored if i % 4 else Status.truncated, value=float(i % 2)))
    shown.finished()
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "evaluate: 40 samples"
    assert lines[-1].startswith("evaluate: 40 of 40 in ")
    assert lines[-1].endswith("mean 0.667 · 30 scored · 10 truncated")


@pytest.mark.parametrize(("total", "done"), [(None, 0), (3, 2), (0, 0)])
def test_every_kind_shows_without_failing(record, total, done):
    for kind in (LineProgress, LiveProgress):
        out = Terminal()
        shown = kind(One(), out)
        shown.started(total, done)
        shown.advanced(record(status=Status.failed))
        shown.finished()
        assert "1 failed" in out.getvalue()


def test_a_pause_is_told_while_it_lasts_and_when_it_is_over(record):
    lines, live = io.StringIO(), Terminal()
    for shown in (LineProgress(One(), lines), LiveProgress(One(), live)):
        shown.started(2, 0)
        for tenths in range(251):
            shown.paused(tenths / 10, "the server restarts ([bold]Triton[/bold])")
        shown._bar.refresh() if isinstance(shown, LiveProgress) else None
        shown.resumed(25.0)
        shown.paused(0.0, "again")
        shown.advanced(record())
        shown.finished()
    told = [line for line in lines.getvalue().splitlines() if "pause" in line]
    reason = "the server restarts ([bold]Triton[/bold])"
    assert told == [
        f"evaluate: paused: {reason}",
        f"evaluate: paused 10 s: {reason}",
        f"evaluate: paused 20 s: {reason}",
        "evaluate: resumed after a pause of 25.0 s",
        "evaluate: paused: again",
    ]
    assert "paused" in live.getvalue()


def test_what_was_kept_is_said():
    out = io.StringIO()
    LineProgress(One(), out).started(9, 4)
    assert "4 already done" in out.getvalue()


def test_those_who_answer_are_shown(record):
    lines, live = io.StringIO(), Terminal()
    for shown in (LineProgress(Two(), lines), LiveProgress(Two(), live)):
        shown.started(1, 0)
        shown.advanced(record())
        shown.finished()
    assert lines.getvalue().splitlines()[1].endswith("1 scored · 2 of 2 replicas")
    assert lines.getvalue().splitlines()[2] == "lost one"
    assert "pid" in live.getvalue()
