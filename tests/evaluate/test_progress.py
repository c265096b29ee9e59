from __future__ import annotations

import io

import pytest
from rich.console import Console
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


def test_a_terminal_gets_a_table_and_others_get_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress(One(), Terminal()), LineProgress)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress(One(), Terminal()), LiveProgress)
    assert isinstance(progress(One(), io.StringIO()), LineProgress)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_on_any_terminal(record, width):
    out = io.StringIO()
    console = Console(width=width, file=out, force_terminal=True, color_system=None)
    shown = LiveProgress(One(), Terminal())
    shown.started({f"a_task_with_a_rather_long_name_{n}": 123_456 for n in range(3)} | {"unknown": None}, 0)
    for n in range(20):
        shown.advanced(record(f"a_task_with_a_rather_long_name_{n % 3}/{n}/0", value=n / 20))
    shown.advanced(record("unknown/1/0", Status.truncated))
    console.print(shown._table())
    shown.finished()
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("/123,456") == 3
    assert "20 scored · 1 truncated" in text
    assert ("acc" in text) is (width > 60)


def test_a_line_about_every_tenth(record):
    out = io.StringIO()
    shown = LineProgress(One(), out)
    shown.started({"t": 40}, 0)
    for i in range(40):
        shown.advanced(record(f"t/{i}/0", Status.scored if i % 4 else Status.truncated, value=float(i % 2)))
    shown.finished()
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "evaluate: 40 samples"
    assert lines[-1].startswith("evaluate: 40 of 40 in ")
    assert lines[-1].endswith("acc 0.667 · 30 scored · 10 truncated")


@pytest.mark.parametrize(("total", "done"), [(None, 0), (3, 2), (0, 0)])
def test_every_kind_shows_without_failing(record, total, done):
    for kind in (LineProgress, LiveProgress):
        out = Terminal()
        shown = kind(One(), out)
        shown.started({"t": total}, done)
        shown.advanced(record(status=Status.failed))
        shown.finished()
        assert "1 failed" in out.getvalue()


def test_a_pause_is_told_while_it_lasts_and_when_it_is_over(record):
    lines, live = io.StringIO(), Terminal()
    for shown in (LineProgress(One(), lines), LiveProgress(One(), live)):
        shown.started({"t": 2}, 0)
        for tenths in range(251):
            shown.paused(tenths / 10, "the server restarts ([bold]Triton[/bold])")
        shown._live.refresh() if isinstance(shown, LiveProgress) else None
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
    LineProgress(One(), out).started({"t": 9}, 4)
    assert "4 already done" in out.getvalue()


def test_those_who_answer_are_shown(record):
    lines, live = io.StringIO(), Terminal()
    for shown in (LineProgress(Two(), lines), LiveProgress(Two(), live)):
        shown.started({"t": 1}, 0)
        shown.advanced(record())
        shown.finished()
    assert lines.getvalue().splitlines()[1].endswith("1 scored · 2 of 2 replicas")
    assert lines.getvalue().splitlines()[2] == "lost one"
    assert "pid" in live.getvalue()
