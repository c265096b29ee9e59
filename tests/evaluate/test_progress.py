from __future__ import annotations

import io

import pytest

from launcher.core import Status
from launcher.evaluate.progress import LineProgress, LiveProgress, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines():
    assert isinstance(progress(Terminal()), LiveProgress)
    assert isinstance(progress(io.StringIO()), LineProgress)


def test_a_line_about_every_tenth(record):
    out = io.StringIO()
    shown = LineProgress(out)
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
        shown = kind(out)
        shown.started(total, done)
        shown.advanced(record(status=Status.failed))
        shown.finished()
        assert "1 failed" in out.getvalue()


def test_what_was_kept_is_said():
    out = io.StringIO()
    LineProgress(out).started(9, 4)
    assert "4 of them" in out.getvalue()
