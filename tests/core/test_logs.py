"""Structured logs: what a line has, how large a log grows, which secrets stay out, and how all are read as one."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from launcher.core import logs, redaction, request_id
from launcher.core.log_reader import LogsTail, files, merged
from launcher.core.types import Request
from tests.running import launch_here


def logger(path: Path, process: str = "server") -> logging.Logger:
    log = logging.Logger("test")
    log.addHandler(logs.file_handler(path, process))
    return log


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_its_fields_and_no_secret(tmp_path: Path) -> None:
    redaction.hide('top "secret"', "KEY")
    log = logger(tmp_path / "server.log")
    try:
        log.warning("%s: é\n%s", "a", 'top "secret"', extra={"request_id": "id/1"})
        try:
            raise ValueError("inner")
        except ValueError:
            log.exception("failed")
    finally:
        redaction.forget()
    first, second = lines(tmp_path / "server.log")
    assert list(first)[:4] == ["time", "level", "process", "event"]
    assert (first["level"], first["process"], first["request_id"]) == ("warning", "server", "id/1")
    assert first["event"] == "a: é\n[redacted: KEY]"
    assert "ValueError: inner" in second["event"]
    assert (tmp_path / "server.log").stat().st_mode & 0o777 == 0o600


def test_a_log_is_bounded_and_its_rotated_parts_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    log = logger(tmp_path / "server.log")
    for number in range(80):
        log.info("number %d", number)
    assert {path.name for path in tmp_path.iterdir()} == {"server.log", *(f"server.log.{n}" for n in (1, 2, 3))}
    found = [line.event for line in merged(files(tmp_path), tmp_path)]
    assert found == [f"number {number}" for number in range(80 - len(found), 80)]
    assert 20 < len(found) < 80


def output(path: Path, printed: bytes, **environment: str) -> None:
    read, write = os.pipe()
    writer = logs.OutputLog(read, path, "program", environment)
    writer.start()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(printed)
    writer.join(60)


def test_what_a_program_prints_is_wrapped_bounded_and_without_the_secrets_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    secrets = {"OPENAI_API_KEY": 'sk-"quoted"-1234', "HF_TOKEN": "hf_abcdefgh"}
    printed = 'key sk-"quoted"-1234 and hf_abcdefgh in /home/me\r50%\rdone\n\xff'.encode("latin-1")
    output(
        tmp_path / "p.log",
        printed,
        **secrets,
        HOME="/home/me",
        TOKENIZERS_PARALLELISM="false-like",
        KEY_FILE="/home/me/k",
    )
    found = [line["event"] for line in lines(tmp_path / "p.log")]
    assert found == ["key [redacted: OPENAI_API_KEY] and [redacted: HF_TOKEN] in /home/me", "50%", "done", "\ufffd"]
    for _ in range(60):
        output(tmp_path / "p.log", b"x" * 100 + b"\n")
    assert len(list(tmp_path.iterdir())) == 1 + logs.KEPT


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("E1130 16:35:50.101805 32565 server.cc:241] no driver", "error"),
        ("[2026-11-30 16:36:19,214 W 716 716] (raylet) slow", "warning"),
        ("2026-11-30 16:36:19,214\tINFO worker.py:1 -- an ERROR is far", "info"),
        ("(EngineCore_DP0 pid=2) WARNING 11-30 12:00:01 [core.py:936] x", "warning"),
        ("[ALERT]    (12) : cannot bind", "error"),
        ("it says NO_ERROR and /WARNING", "info"),
    ],
)
def test_a_line_of_another_program_has_the_level_that_it_names(tmp_path: Path, text: str, level: str) -> None:
    output(tmp_path / "p.log", text.encode())
    assert [line["level"] for line in lines(tmp_path / "p.log")] == [level]


def test_an_error_of_a_module_is_one_line_on_the_terminal_and_whole_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], []
    try:
        with logs.launcher_log(tmp_path / "launcher.log"):
            try:
                raise ValueError("a\nb")
            except ValueError:
                logging.getLogger("launcher.any").exception("it failed")
    finally:
        root.handlers[:] = handlers
    assert capsys.readouterr().err == f"it failed: ValueError: a b; the traceback is in {tmp_path / 'launcher.log'}\n"
    [line] = lines(tmp_path / "launcher.log")
    assert line["event"].startswith("it failed\nTraceback (most")


def test_logs_of_all_processes_are_one_by_time(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "not.log").write_text("no\n")
    for name, times in {"a.log": (1, 4), "judge/server.log": (2, 3)}.items():
        rows = [
            {"time": f"2026-01-01T00:00:0{n}Z", "level": "info", "process": name[0], "event": str(n)} for n in times
        ]
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "a line of others\n")
    found = [(line.process, line.event) for line in merged(files(tmp_path), tmp_path)]
    assert found == [
        ("a", "1"), ("j", "2"), ("j", "3"), ("judge/server", "a line of others"), ("a", "4"), ("a", "a line of others")
    ]  # fmt: skip


def test_following_loses_nothing_where_a_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, tail = logger(tmp_path / "server.log"), LogsTail(tmp_path)
    log.info("before")
    tail.begin()
    log.info("1")
    seen = [line.event for line in tail.new()]
    monkeypatch.setattr(log.handlers[0], "maxBytes", 1)
    log.info("2")  # the handler rotates before it
    log2 = logger(tmp_path / "later.log", "later")
    log2.info("3")
    seen += [line.event for line in tail.new()]
    with (tmp_path / "server.log").open("a") as file:
        file.write("torn")
    assert (seen, tail.new()) == (["1", "2", "3"], [])


def test_the_command_prints_and_filters(tmp_path: Path) -> None:
    log = logger(tmp_path / "server.log")
    log.info("one", extra={"request_id": "a"})
    log.error("two\x1b[31m", extra={"request_id": "b"})
    logger(tmp_path / "launcher.log", "launcher").info("three")

    def said(*arguments: str) -> list[str]:
        done = launch_here(tmp_path, "logs", str(tmp_path), *arguments)
        assert done.returncode == 0, done.stderr
        return [line.split()[3] for line in done.stdout.splitlines()]

    assert said() == ["one", "two[31m", "three"]
    assert said("--level", "error") == ["two[31m"]
    assert said("--process", "launcher") == ["three"]
    assert said("--request-id", "a") == ["one"]
    (tmp_path / "session.json").write_text("{}")
    (tmp_path / "results.json").write_text("{}")
    assert said("-f") == ["one", "two[31m", "three"], "a run that has ended ends what follows it"
    assert launch_here(tmp_path, "logs", "nowhere").returncode == 1


@pytest.mark.parametrize(
    ("sample", "id"),
    [("t/0/0", "t/0/0/2"), ("t/a b\n/0", "t/a%20b%0A/0/2"), ("é/0/0", "%C3%A9/0/0/2"), (None, None)],
)
def test_the_id_of_a_request_can_stand_in_a_header(sample: str | None, id: str | None) -> None:
    assert request_id.of(Request("/v1/completions", {}, sample=sample, index=2)) == id


def test_long_ids_are_short_and_differ() -> None:
    ids = {request_id.of(Request("/v1/completions", {}, sample="x" * 500, index=n)) for n in range(20)}
    assert len(ids) == 20
    assert {len(id or "") for id in ids} == {request_id.MOST}
