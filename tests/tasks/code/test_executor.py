from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from launcher.core import processes
from launcher.core.errors import UserError
from launcher.tasks.code import isolation
from launcher.tasks.code.executor import Kind, Limits, Outcome, SandboxFault, execute
from launcher.tasks.code.isolation import Isolation
from tests.tasks.code.programs import ENDS, PASSES

LIMITS = Limits(cpu_s=1, memory_bytes=1 << 30)
SANDBOXES = [isolation._bubblewrap(), isolation._namespaces()]


@pytest.fixture(params=SANDBOXES, ids=lambda each: each.name)
def sandbox(request: pytest.FixtureRequest) -> Isolation:
    each = request.param
    fault = isolation._fault(each, isolation.TRIAL) if each.command else "not installed"
    if fault:
        pytest.skip(f"{each.name} does not isolate here: {fault}")
    return each


async def ends(each: Isolation, *programs: tuple[str, str]) -> list[Outcome]:
    return list(await asyncio.gather(*(execute(code, test, LIMITS, each) for code, test in programs)))


async def test_every_end_has_its_name(sandbox: Isolation) -> None:
    found = await ends(sandbox, *((code, test) for code, test, _ in ENDS.values()))
    assert {name: end.kind.value for name, end in zip(ENDS, found, strict=True)} == {
        name: kind for name, (_, _, kind) in ENDS.items()
    }


async def test_a_right_program_passes(sandbox: Isolation) -> None:
    found = await ends(sandbox, *PASSES.values())
    assert dict(zip(PASSES, found, strict=True)) == dict.fromkeys(PASSES, Outcome(Kind.passed))


async def test_nothing_of_the_machine_is_in_reach(
    sandbox: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hunter")
    (tmp_path / "samples.jsonl").write_text("{}")
    mounted = sorted({Path(path).parts[2] for path in isolation.shown() if path.startswith("/tmp/")})
    seen = f"""
import os, sys
assert "A_SECRET" not in os.environ
assert not os.path.exists({str(tmp_path)!r}) and not os.path.exists({str(Path(__file__))!r})
assert not os.path.exists("/proc/1") and not os.path.exists("/etc/passwd")
home = os.path.expanduser("~")
for path in "/", "/usr", sys.prefix, os.path.dirname(os.__file__), "/dev":
    try:
        open(path + "/written", "w")
    except OSError:
        continue
    raise AssertionError(path)
assert sorted(os.listdir(".")) == {mounted}, "nothing but the way to a Python that is in the same place"
"""
    assert await ends(sandbox, (seen, "")) == [Outcome(Kind.passed)]


def children() -> list[int]:
    """Return the processes that this one has started; those of other tests may have started some too."""
    return [process.pid for process in processes.every_process() if process.parent == os.getpid()]


async def test_nothing_of_a_program_remains(sandbox: Isolation) -> None:
    before = children()
    running = asyncio.ensure_future(ends(sandbox, ("import time\ntime.sleep(600)", "")))
    while not (started := [pid for pid in children() if pid not in before]):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    started += processes.descendants(started[0])
    while any(processes.is_running(pid) for pid in started):
        await asyncio.sleep(0.01)


async def test_a_program_that_waits_times_out(sandbox: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "wait_s", 0.5)
    (found,) = await ends(sandbox, ("import time\ntime.sleep(600)", ""))
    assert found.kind is Kind.timed_out


async def test_a_program_that_gets_no_cpu_is_no_wrong_program(
    sandbox: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, its supervisor is as one that waits for a CPU all the time."""
    monkeypatch.setattr(Limits, "wait_s", 0.2)
    monkeypatch.setattr("launcher.tasks.code.executor._without_cpu_s", lambda pid: 1e9)
    monkeypatch.setattr("launcher.tasks.code.executor.STARVED", -1)
    with pytest.raises(SandboxFault, match="no CPU"):
        await ends(sandbox, ("import time\ntime.sleep(600)", ""))


async def test_a_sandbox_that_fails_is_no_wrong_program() -> None:
    for command in (sys.executable, "-c", "print('x')"), (sys.executable, "-c", "raise SystemExit(3)"), ("/nowhere",):
        with pytest.raises(SandboxFault):
            await ends(Isolation("broken", command), ("x = 1", ""))


async def test_without_a_sandbox_programs_are_refused_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_tried", lambda: (None, ("bubblewrap: not installed",)))
    with pytest.raises(UserError, match=r"not installed.*unsafe=true"):
        isolation.isolation(unsafe=False)
    allowed = isolation.isolation(unsafe=True)
    assert allowed.name == "none"
    found = await ends(
        allowed, PASSES["tests"], PASSES["writes a file"], ("import os\nos.fork()", ""), ("", "assert 0")
    )
    assert [end.kind for end in found] == [Kind.passed, Kind.passed, Kind.error, Kind.wrong]
