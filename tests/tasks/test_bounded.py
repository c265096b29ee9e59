from __future__ import annotations

import asyncio
import os
import pickle
import re
import subprocess
import sys
import threading
import time

import psutil
import pytest

from launcher.core.types import Status
from launcher.tasks import bounded
from launcher.tasks.generation import Generation
from tests.scoring import score
from tests.tasks import calls

BACKTRACKS = r"(a+)+$", "a" * 64 + "b"


async def test_a_call_returns_what_the_function_returns_from_another_process():
    async with bounded.running():
        assert await bounded.run(calls.add, 1, 2) == 3
        assert await bounded.run(calls.process) != os.getpid()
        assert await bounded.run(calls.process, inline=True) == os.getpid()


@pytest.mark.parametrize("inline", [True, False])
async def test_an_error_of_the_function_is_raised_and_its_process_goes_on(inline):
    async with bounded.running():
        first = await bounded.run(calls.process)
        with pytest.raises(ZeroDivisionError):
            await bounded.run(calls.divide, 1, 0, inline=inline)
        assert await bounded.run(calls.process) == first


async def test_an_error_that_cannot_be_pickled_says_its_name():
    with pytest.raises(RuntimeError, match="Odd: of its own kind"):
        await bounded.run(calls.odd)


async def test_memory_is_bounded_for_one_call_and_the_process_goes_on():
    async with bounded.running():
        first = await bounded.run(calls.process)
        with pytest.raises(MemoryError):
            await bounded.run(calls.allocate, 1 << 30, memory_bytes=1 << 29)
        assert await bounded.run(calls.allocate, 1 << 30) == 1 << 30
        assert await bounded.run(calls.process) == first


@pytest.mark.parametrize("inline", [True, False])
async def test_an_expression_that_backtracks_is_ended_and_holds_up_nothing(inline):
    """The loop stands still for the inline attempt at most; ``re`` alone would take 2^64 steps."""
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            start = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - start)

    async with bounded.running():
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        with pytest.raises(bounded.TooSlow, match=r"more than 0\.2 s of CPU time"):
            await bounded.run(calls.search, *BACKTRACKS, cpu_s=0.2, inline=inline)
        watching.cancel()
        assert await bounded.run(calls.add, 1, 2) == 3, "others find a new process"
    assert longest < 20 * bounded.INLINE_S


async def test_a_call_that_sleeps_is_ended_too(monkeypatch):
    monkeypatch.setattr(bounded, "PATIENCE", 1)
    with pytest.raises(bounded.TooSlow, match=r"more than 0\.3 s without using the CPU"):
        await bounded.run(time.sleep, 60, cpu_s=0.3)


async def test_a_call_that_gets_little_of_a_busy_machine_is_not_ended(monkeypatch):
    monkeypatch.setattr(bounded, "PATIENCE", 1)
    assert await bounded.run(calls.trickle, 1.5, cpu_s=0.3) != os.getpid()


async def test_importing_the_function_does_not_count():
    from tests.tasks import slow_import

    assert await bounded.run(slow_import.two, cpu_s=0.1) == 2


async def test_no_more_calls_run_at_a_time_than_there_are_workers():
    async with bounded.running():
        found = await asyncio.gather(*(bounded.run(calls.slowly, 0.05) for _ in range(6)))
    assert len(set(found)) == bounded.WORKERS


async def test_no_process_is_left_behind_also_when_a_call_is_cancelled():
    before = set(psutil.Process().children())
    async with bounded.running():
        await bounded.run(calls.add, 1, 2)
        call = asyncio.create_task(bounded.run(time.sleep, 60))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert set(psutil.Process().children()) <= before


async def test_a_process_that_dies_is_named_and_replaced():
    async with bounded.running():
        with pytest.raises(bounded.WorkerDied, match="code 7"):
            await bounded.run(os._exit, 7)
        assert await bounded.run(calls.add, 1, 2) == 3


async def test_what_a_function_prints_is_no_answer(capfd):
    assert await bounded.run(calls.says, "hello") == 1
    assert capfd.readouterr() == ("", "hello\n")


async def test_a_worker_has_no_secret_of_the_launcher(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    assert await bounded.run(calls.variable, "SOME_API_KEY") is None


def test_in_another_thread_a_process_does_it():
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(bounded.run(calls.process, inline=True))))
    thread.start()
    thread.join()
    assert found[0] != os.getpid()


def test_the_timer_does_not_go_off_outside_of_a_call():
    asyncio.run(bounded.run(calls.add, 1, 2, inline=True))
    start = time.process_time()
    while time.process_time() - start < 3 * bounded.INLINE_S:
        re.search(r"a+b", "a" * 1000)


def swallows():
    """Catch the interruption, as the code of others does, and go on as if nothing was."""
    try:
        while True:
            pass
    except:  # noqa: E722
        return "wrong"


def test_a_call_that_catches_its_interruption_does_not_count():
    with pytest.raises(bounded.TooSlow):
        bounded.attempt(swallows)
    assert bounded.attempt(calls.add, 1, 2) == 3


def test_a_sample_whose_expression_takes_too_long_is_unparsed(jsonl, completion):
    pattern, text = BACKTRACKS
    task = Generation(path=jsonl({"id": "1", "prompt": "x", "answer": "y"}), extract=pattern)
    [sample] = task.samples("t", "m")
    found = score(task, sample, completion(text))
    assert found.status is Status.unparsed
    assert found.reason == f"extract={pattern!r} took more than 2 s of CPU time on this answer"


@pytest.mark.parametrize("sent", ["nothing", "half", "paths", "half a call"])
def test_a_worker_whose_launcher_is_killed_ends_and_says_nothing(sent):
    def message(value):
        data = pickle.dumps(value)
        return bounded.SIZE.pack(len(data)) + data

    paths, call = message(sys.path), message(("builtins", "abs", (1,), 1.0, None))
    data = {"nothing": b"", "half": paths[:20], "paths": paths, "half a call": paths + call[:-1]}[sent]
    done = subprocess.run([sys.executable, str(bounded.WORKER)], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_worker_whose_launcher_is_killed_during_a_call_says_nothing():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(bounded.WORKER)], stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        worker.stdout.close()
        for value in (sys.path, ("builtins", "abs", (1,), 1.0, None)):
            data = pickle.dumps(value)
            worker.stdin.write(bounded.SIZE.pack(len(data)) + data)
        worker.stdin.flush()
        assert worker.stderr.read() == b""
        worker.wait(30)
