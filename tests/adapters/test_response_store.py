"""Several processes share one file of answers, and any of them may be killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from launcher.adapters import answer_file, answer_writer
from launcher.adapters.response_store import ResponseStore, digest_of
from launcher.core.types import Request, Response

WRITES = """
import sys, time
from pathlib import Path
from launcher.adapters.response_store import ResponseStore
from launcher.core.types import Response

folder, name, count, pause_s = *sys.argv[1:4], float(sys.argv[4])
store = ResponseStore(Path(folder), 1 << 30)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(count)):
    digest = f"{name}:{number}".encode()
    store.write(digest, Response(200, {"text": digest.decode() * 300}), None)
    time.sleep(pause_s)
    if number % 50 == 49:
        print(number, flush=True)
store.close()
print("done", flush=True)
"""
"""Writes answers whose digests begin with a name, once it is told to."""


@pytest.fixture
def writer(tmp_path):
    """Start a process that writes answers; it is killed at the end of the test."""
    started = []

    def start(name, count, pause_s=0.0):
        arguments = [sys.executable, "-c", WRITES, str(tmp_path / "answers"), name, str(count), str(pause_s)]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(*processes):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def names(folder: Path) -> list[str]:
    with answer_file.connected(folder / "answers/answers.1.sqlite") as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [name.decode() for (name,) in file.execute("SELECT digest FROM answers ORDER BY digest")]


async def test_several_processes_write_at_the_same_time_and_lose_nothing(writer, tmp_path):
    processes = [writer(name, 300) for name in "abc"]
    go(*processes)
    for process in processes:
        assert process.communicate(timeout=120)[0].endswith("done\n")
    found = names(tmp_path)
    assert sorted(found) == sorted(f"{name}:{number}" for name in "abc" for number in range(300))
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["answers.1.sqlite"]


async def test_a_process_that_is_killed_while_it_writes_leaves_a_usable_file(writer, tmp_path):
    """Each is killed at some moment, mostly within a transaction; what a moment earlier was written is there."""
    for attempt in range(3):
        process = writer(f"k{attempt}", 1_000_000, 0.0005)
        go(process)
        for _ in range(random.randint(1, 5)):
            process.stdout.readline()
        while not any(name.startswith(f"k{attempt}:") for name in names(tmp_path)):
            time.sleep(0.01)
        before = set(names(tmp_path))
        time.sleep(random.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert set(names(tmp_path)) >= before
        store = ResponseStore(tmp_path / "answers", 1 << 30)
        try:
            for name in random.sample(sorted(name for name in before if name.startswith("k")), 20):
                assert (await store.read(name.encode())).body == {"text": name * 300}
            store.write(f"after{attempt}".encode(), Response(200, {"text": "after"}), None)
        finally:
            store.close()
        assert f"after{attempt}" in names(tmp_path)
    assert not (tmp_path / "answers/answers.1.damaged").exists()


async def test_an_interrupted_transaction_is_undone_by_whoever_comes_next(tmp_path):
    """The copy has the journal of a transaction whose pages are written in part, as a crash leaves them."""
    store = ResponseStore(tmp_path / "answers", 1 << 30)
    store.write(b"before", Response(200, {"n": 1}), None)
    store.close()
    path = tmp_path / "answers/answers.1.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA cache_size = 1")  # spills pages into the file before the end
        file.execute("BEGIN IMMEDIATE")
        file.execute("DELETE FROM answers")
        file.executemany("INSERT INTO answers VALUES (?, 0, 0, zeroblob(9000))", [(bytes([n]),) for n in range(50)])
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in (path.name, f"{path.name}-journal"):
            (crashed / name).write_bytes((path.parent / name).read_bytes())
        file.execute("ROLLBACK")
    assert (crashed / path.name).stat().st_size > path.stat().st_size
    store = ResponseStore(crashed, 1 << 30)
    try:
        assert (await store.read(b"before")).body == {"n": 1}
    finally:
        store.close()


async def test_a_read_waits_for_a_process_that_writes(tmp_path):
    store = ResponseStore(tmp_path / "answers", 1 << 30)
    try:
        store.write(b"one", Response(200, {"n": 1}), None)
        while store._pending:
            time.sleep(0.01)
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "locked\n"
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert (await store.read(b"one")).body == {"n": 1}
        holder.communicate(timeout=60)
    finally:
        store.close()


HOLDS = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
time.sleep(0.3)
file.execute("COMMIT")
"""


async def test_a_damaged_file_that_another_process_has_put_aside_is_left(tmp_path):
    first, second = (ResponseStore(tmp_path / "answers", 1 << 30) for _ in range(2))
    answer_file.mark(first.path, sqlite3.DatabaseError("planted"))
    for store, name in ((first, b"one"), (second, b"two")):
        store.write(name, Response(200, {"n": name.decode()}), None)
        store.close()
    third = ResponseStore(tmp_path / "answers", 1 << 30)
    try:
        assert [(await third.read(name)).body["n"] for name in (b"one", b"two")] == ["one", "two"]
    finally:
        third.close()
    assert third.path.name == "answers.2.sqlite"


async def test_a_full_disk_is_said_once_and_answers_go_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(answer_writer, "_apply", full)
    store = ResponseStore(tmp_path / "answers", 1 << 30)
    store.write(b"one", Response(200, {}), None)
    while store._pending:
        time.sleep(0.01)
    store.write(b"two", Response(200, {}), None)
    assert await store.read(b"one") is None
    store.close()
    assert caplog.text.count("no more answers are kept") == 1


def full(file, changes):
    raise sqlite3.OperationalError("database or disk is full")


def test_the_key_of_a_request_does_not_depend_on_the_order_of_its_fields():
    one = Request("/v1/completions", {"a": 1, "b": 2})
    other = Request("/v1/completions", {"b": 2, "a": 1})
    assert digest_of(one, None) == digest_of(other, None)
    assert digest_of(one, None) != digest_of(one, {"deployment": 1})
