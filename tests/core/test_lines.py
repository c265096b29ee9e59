from __future__ import annotations

from pathlib import Path

from launcher.core.lines import Tail


def test_a_tail_returns_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntw")
    assert tail.lines() == [(1, b"one\n")]
    assert tail.lines() == []
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert tail.lines() == [(2, b"two\n"), (3, b"three\n")]


def test_a_tail_begins_again_with_a_file_that_was_replaced_or_cut(tmp_path: Path) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    assert len(tail.lines()) == 2
    other.write_bytes(b"three\nfour\nfive\n")
    other.replace(path)
    assert tail.lines() == [(1, b"three\n"), (2, b"four\n"), (3, b"five\n")]
    path.write_bytes(b"six\n")
    assert tail.lines() == [(1, b"six\n")]
