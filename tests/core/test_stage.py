from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time

import pytest

from launcher.core import console, stage
from launcher.core.run_folder import RunFolder


def waited(condition, timeout_s=60.0):
    """Return what a condition gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def read(folder):
    path = RunFolder(folder).stage
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (3, 8, "checks", "3 of 8 checks"),
        (1.234e9, 4.5e9, "bytes", "1.2 of 4.5 GB"),
        (5e5, 2e7, "bytes", "0.5 of 20.0 MB"),
        (12, None, "samples", "12 samples"),
        (None, None, "", ""),
    ],
)
def test_an_amount_is_said_with_its_unit(done, total, unit, text):
    assert stage.amount(done, total, unit) == text


def test_a_run_publishes_its_stage_and_removes_it_at_the_end(tmp_path):
    with stage.board() as board:
        board.folder = tmp_path
        board.begin("validate")
        stage.report(3, 8, "checks", "greedy")
        board.facts = lambda: {"tasks": {}}
        found = waited(lambda: (now := read(tmp_path)) and now["step"] == "validate" and now)
        assert (found["done"], found["total"], found["unit"], found["note"]) == (3, 8, "checks", "greedy")
        assert found["tasks"] == {}
        assert "prepare" in found["steps"]
    assert read(tmp_path) is None


def test_what_cannot_be_published_ends_nothing(tmp_path):
    with stage.board() as board:
        board.folder = tmp_path / "file"
        board.folder.write_text("")
        board.facts = lambda: json.loads("{")
        board.begin("serve")
    assert stage.current() is None


def test_a_board_in_another_is_the_current_one():
    with stage.board() as outer:
        with stage.board() as inner:
            assert stage.current() is inner
        assert stage.current() is outer


def test_bytes_and_files_are_counted(tmp_path):
    with stage.board() as board:
        board.begin("serve")
        loading = stage.Loading([(tmp_path / "a", 10), (tmp_path / "a", 20), (tmp_path / "b", 70)])
        read = loading.counting(str.upper, {"x": (tmp_path / "a", 10), "y": (tmp_path / "b", 70)})
        assert read("x") == "X"
        assert (board.stage.done, board.stage.total, board.stage.note) == (10, 100, "file 1 of 2")
        read("y")
        assert (board.stage.done, board.stage.note) == (80, "file 2 of 2")


@contextlib.contextmanager
def terminal(monkeypatch):
    """Make standard error a pseudo terminal, and yield what reads from it until a text has come."""
    leader, device = os.openpty()
    with os.fdopen(device, "w") as stream:
        monkeypatch.setattr(sys, "stderr", console.Stream(stream))

        def read(until):
            found = ""
            while until not in found:
                found += os.read(leader, 65536).decode()
            return found

        yield read
    os.close(leader)


def test_what_is_printed_stands_above_the_status_line(monkeypatch):
    with terminal(monkeypatch) as read:
        console.status("serve 1 s")
        read("serve 1 s")
        console.to_stderr("a line")
        assert read("\n") == f"{console.ERASE}a line\r\n"
        console.status("serve 2 s \x1b[31m")
        read("serve 2 s [31m")
        console.status("")
        assert read(console.ERASE) == console.ERASE


def test_the_status_line_never_wraps(monkeypatch):
    with terminal(monkeypatch) as read:
        console.status("x" * 500)
        assert len(read("x...")) < 500


def test_a_board_draws_where_lines_can_be_drawn_again(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with terminal(monkeypatch) as read, stage.board() as board, stage.titled("point 2 of 3"):
        board.begin("serve")
        read("point 2 of 3 · serve ")


def test_other_threads_are_shown_too():
    with stage.board() as board:
        board.begin("serve")
        thread = threading.Thread(target=stage.report, args=(1, 2, "tensors"))
        thread.start()
        thread.join()
        assert board.stage.describe().endswith(": 1 of 2 tensors")
