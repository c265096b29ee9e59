"""What adapters do after a run: once in each session, however it ends, and without a word in its result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from launcher.adapters import after
from launcher.adapters.base import Adapter, Finished
from launcher.adapters.retry import Retry
from launcher.core.errors import CoverageTooLow, ResumeError, TakenOver, UserError, ValidationFailed
from launcher.pipeline.record import RunRecord
from launcher.pipeline.reporting import reporting
from tests.cli.test_extensions import ROOT, install, write_package
from tests.running import SLOW, program, wait_for


class Hook(Adapter):
    """Remembers what it was called with, and then does as ``act`` says."""

    def __init__(self, act=None):
        self.act, self.called = act, []

    async def __call__(self, request, call_next):
        return await call_next(request)

    async def after(self, finished: Finished) -> None:
        assert (finished.folder / "report.html").exists()
        written = json.loads((finished.folder / "results.json").read_text())
        self.called.append((finished.report.status, written["status"]))
        if self.act is not None:
            await self.act()


def ended(folder, adapters, error=None):
    """Return how a run ends, and the exception that leaves it."""
    left = None
    try:
        with reporting(RunRecord({}), folder, [after.hooked(adapters, folder)]) as exit_status:
            if error is not None:
                raise error
    except BaseException as raised:
        left = raised
    return exit_status, left


ENDS = [
    (None, "ok", 0),
    (CoverageTooLow("few"), "incomplete", 3),
    (ValidationFailed("lies"), "invalid", 2),
    (UserError("no"), "error", 1),
    (KeyboardInterrupt(), "interrupted", 130),
    (RuntimeError("a task crashed"), "error", 1),
    (SystemExit(7), "error", 1),
]


@pytest.mark.parametrize(("error", "status", "code"), ENDS, ids=[f"{end[1]}-{type(end[0]).__name__}" for end in ENDS])
def test_it_is_called_once_however_a_run_ends(tmp_path, error, status, code):
    hook = Hook()
    exit_status, left = ended(tmp_path, [Retry(), hook], error)
    assert hook.called == [(status, status)]
    assert (exit_status.status, exit_status.code) == (status, code)
    assert left is (error if isinstance(error, RuntimeError | SystemExit) else None)


@pytest.mark.parametrize("error", [ResumeError("another run's"), TakenOver("taken")])
def test_a_folder_of_another_run_or_session_gets_no_hook(tmp_path, error):
    hook = Hook()
    ended(tmp_path, [hook], error)
    assert hook.called == []


async def raises():
    raise ValueError("planted\nin two lines")


async def exits():
    sys.exit(3)


async def hangs():
    await asyncio.Event().wait()


@pytest.mark.parametrize("act", [raises, exits, hangs])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("a task crashed")])
def test_what_fails_is_one_line_and_counted_and_changes_no_result(tmp_path, act, error, caplog, monkeypatch):
    monkeypatch.setattr(after, "TIMEOUT_S", 0.05)
    first, second = Hook(act), Hook()
    exit_status, _ = ended(tmp_path, [first, second], error)
    assert (len(first.called), len(second.called)) == (1, 1)
    assert exit_status.status == first.called[0][0]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["status"] == exit_status.status
    (entry,) = found["run"]["adapter_failures"].values()
    assert entry["count"] == 1
    assert entry["first"].startswith("after the run: ")
    assert len([line for line in caplog.text.splitlines() if "after the run" in line]) == 1
    assert "adapter failures" in (tmp_path / "report.html").read_text()


def test_ctrl_c_while_the_report_is_written_says_what_writes_it(tmp_path, capsys, monkeypatch):
    """Hooks, which read the report, are not called."""
    hook = Hook()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.pipeline.reporting.publish", interrupted)
    exit_status, left = ended(tmp_path, [hook], None)
    assert (exit_status.code, exit_status.status, left) == (130, "interrupted", None)
    said = capsys.readouterr().err
    assert f"interrupted while the report was being written; resume={tmp_path} writes it" in said
    assert "then the adapters do what they do after a run" in said
    assert hook.called == []
    monkeypatch.undo()
    ended(tmp_path, [hook], None)
    assert len(hook.called) == 1, "the resumed session calls it"


def test_ctrl_c_ends_the_hooks_and_keeps_the_result(tmp_path, capsys):
    async def interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    first, second = Hook(interrupts), Hook()
    exit_status, left = ended(tmp_path, [first, second])
    assert (len(first.called), len(second.called), left) == (1, 0, None)
    assert (exit_status.code, exit_status.status) == (130, "ok")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "ok"
    assert capsys.readouterr().err.count("interrupted after the report") == 1


@pytest.mark.slow
def test_a_hook_of_a_wheel_is_called_once_by_each_session_also_of_a_proxy(tmp_path):
    site = install(write_package(tmp_path / "project"), tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": f"{site}:{ROOT}"}
    asked = (*SLOW, "engine=echo", "model=none", "tasks=[addition]", "adapters=[retry,summary]", "evaluate.limit=9")
    folder = tmp_path / "run"
    with program([sys.executable, "-m", "launcher", *asked, f"hydra.run.dir={folder}"], tmp_path, environment) as run:
        wait_for(lambda: (folder / "samples.jsonl").exists() and (folder / "samples.jsonl").read_text(), run, 60)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 130
    assert (folder / "sessions.txt").read_text() == "interrupted\n"
    arguments = [sys.executable, "-m", "launcher", f"resume={folder}", "engine.latency_s=0"]
    with program(arguments, tmp_path, environment) as run:
        run.communicate(timeout=120)
    assert run.returncode == 0
    assert (folder / "sessions.txt").read_text() == "interrupted\nok\n"
    assert not Path(folder / "adapter_failures.json").exists()
    proxy = tmp_path / "proxy"
    arguments = [*asked[:-1], "mode=proxy", "tasks=[]", f"hydra.run.dir={proxy}"]
    with program([sys.executable, "-m", "launcher", *arguments], tmp_path, environment) as run:
        wait_for((proxy / "proxy.json").exists, run, 60)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert (proxy / "sessions.txt").read_text() == "ok\n"
