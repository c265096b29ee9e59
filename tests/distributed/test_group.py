"""Processes that were started together find each other, do what the leader asks, and end as a whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from pathlib import Path

import psutil
import pytest

from launcher.core.errors import ServerError, UserError
from launcher.distributed.allocation import Allocation, allocate
from launcher.distributed.group import rendezvous, transport
from launcher.distributed.group.leader import Group, leading
from tests.running import living

WORLD = 3
LEADER = """
import json, os, signal, sys, time
from launcher.distributed.allocation import allocate
from launcher.distributed.group.leader import leading

signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
print("up", flush=True)
try:
    with leading(allocate()) as allocation:
        print(json.dumps([[m.rank, m.local_rank] for m in allocation.ranks.wait()]), flush=True)
        orders = [allocation.ranks.start(rank, "group_echo", {"ECHO": str(rank)}) for rank in (1, 2)]
        for n, connection in enumerate(orders):
            connection.send("hello")
            print(connection.recv(), flush=True)
        time.sleep(float(sys.argv[1]))
        allocation.ranks.stop(1, 5.0)
        print(sorted(x.poll(0) for x in orders), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
AGENT = """
import sys
from launcher.distributed.allocation import allocate
from launcher.distributed.group.agent import run_agent

sys.exit(run_agent(allocate()))
"""
ECHO = """
import os, sys, threading
from multiprocessing.connection import Connection

orders, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
orders.send(f"{orders.recv()} {os.environ['ECHO']}")
try:
    lifeline.recv_bytes()
except EOFError:
    pass
"""


class Together:
    """The processes of one group, of which rank 0 leads; none outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "group_echo.py").write_text(ECHO)
        self.processes: dict[int, subprocess.Popen[str]] = {}

    def start(self, rank: int, sleep_s: float = 0) -> subprocess.Popen[str]:
        program = LEADER if rank == 0 else AGENT
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
        torchrun = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1",
            "PYTHONPATH": f"{Path.cwd()}:{self.folder}",
        }
        command = [sys.executable, "-c", program, str(sleep_s)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, env=os.environ | where | torchrun, cwd=self.folder, stdout=pipe, stderr=pipe, text=True
        )
        self.processes[rank] = process
        return process

    def all(self, sleep_s: float) -> None:
        for rank in range(WORLD):
            self.start(rank, sleep_s)

    def line(self) -> str:
        out = self.processes[0].stdout
        assert out is not None
        return out.readline().strip()

    def family(self) -> list[psutil.Process]:
        return [child for p in self.processes.values() for child in psutil.Process(p.pid).children(recursive=True)]

    def codes(self) -> list[int]:
        return [self.processes[rank].wait(60) for rank in sorted(self.processes)]

    def path(self) -> Path:
        return self.folder / "outputs" / ".torchrun-127.0.0.1-1-0-0.json"


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Together]:
    group = Together(tmp_path)
    yield group
    for process in group.processes.values():
        process.kill()
        process.communicate()


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, 20)[1]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_agents_run_what_the_leader_requests_until_it_shuts_down(together: Together) -> None:
    together.all(0)
    assert [together.line() for _ in range(4)] == ["up", "[[1, 1], [2, 2]]", "hello 1", "hello 2"]
    assert together.line() == "[False, True]", "the connection of the one that was stopped has ended"
    assert together.codes() == [0, 0, 0]
    assert not together.path().exists()


def running(together: Together) -> list[psutil.Process]:
    """Start a group that works for long, and return what runs beside its members."""
    together.all(600)
    assert [together.line() for _ in range(4)][-1] == "hello 2"
    family = together.family()
    assert len(family) == 2
    return family


def test_only_this_user_can_read_the_secret(together: Together) -> None:
    running(together)
    assert stat.S_IMODE(together.path().stat().st_mode) == 0o600
    secret = json.loads(together.path().read_text())["secret"]
    for process in together.processes.values():
        assert secret not in " ".join(psutil.Process(process.pid).cmdline())
    together.path().chmod(0o644)
    with pytest.raises(UserError, match="no other user may read"):
        rendezvous.read(together.path())


@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_to_any_ends_all_in_order(together: Together, victim: int) -> None:
    family = running(together)
    together.processes[victim].terminate()
    assert together.line() == "interrupted"
    assert together.codes() == [0, 0, 0]
    assert gone(family)


def test_sigterm_to_all_at_once_is_as_one(together: Together) -> None:
    family = running(together)
    for process in together.processes.values():
        process.terminate()
    assert together.codes()[1:] == [0, 0]
    assert gone(family)


def test_agents_end_when_the_leader_is_killed(together: Together) -> None:
    family = running(together)
    together.processes[0].kill()
    assert together.codes() == [-signal.SIGKILL, 1, 1]
    assert gone(family)
    assert "rank 0 is lost" in together.processes[1].stderr.read()


def test_a_child_dies_with_its_agent(together: Together) -> None:
    family = running(together)
    together.processes[1].kill()
    until(lambda: len(living(family)) == 1)


def test_the_file_of_a_dead_leader_is_replaced(together: Together) -> None:
    together.path().parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    stale = {"host": "127.0.0.1", "port": port, "secret": "00"}
    together.path().write_text(json.dumps(stale))
    together.path().chmod(0o600)
    together.start(1)
    together.start(2)
    time.sleep(0.5)
    together.start(0)
    assert together.codes() == [0, 0, 0]


def test_sigterm_without_a_leader_ends_an_agent(together: Together) -> None:
    process = together.start(1)
    until(lambda: _blocks_sigterm(process.pid))
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM


def _blocks_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@contextmanager
def group_of(world: int) -> Iterator[tuple[Group, socket.socket]]:
    allocation = Allocation(("a",), 0, world, cpus=1, gpus=0, name="test")
    with transport.listen("127.0.0.1") as server:
        group = Group(allocation, server, b"secret")
        try:
            yield group, server
        finally:
            group.close()


def test_a_caller_without_the_secret_is_refused() -> None:
    with group_of(2) as (_, server), pytest.raises((AuthenticationError, EOFError, OSError)):
        transport.connect(server.getsockname(), b"guess")


def test_a_silent_caller_does_not_block_the_others() -> None:
    with group_of(2) as (group, server), socket.create_connection(server.getsockname()):
        from launcher.distributed.allocation import Member
        from launcher.distributed.group.messages import Join

        control = transport.connect(server.getsockname(), b"secret")
        control.send(Join(Member(1, "b", 0, 0)))
        assert group.wait(30) == [Member(1, "b", 0, 0)]
        control.close()
        until(lambda: _refused(group))


def _refused(group: Group) -> bool:
    try:
        group.wait(1)
    except ServerError as error:
        return "rank 1 on b is lost" in str(error)
    return False


def test_missing_ranks_are_named() -> None:
    with group_of(4) as (group, _), pytest.raises(ServerError, match=r"rank 1, 2, 3 did not join within 0\.1 s"):
        group.wait(0.1)


def test_a_process_that_is_alone_needs_no_group(tmp_path: Path) -> None:
    alone = allocate({})
    with leading(alone, tmp_path) as same:
        assert same is alone
    assert not list(tmp_path.iterdir())


def test_an_address_that_others_do_not_reach_is_refused(tmp_path: Path) -> None:
    allocation = Allocation(("localhost", "b"), 0, 2, cpus=1, gpus=0, name="test", reach="localhost")
    with pytest.raises(UserError, match="localhost: this host resolves to 127"), leading(allocation, tmp_path):
        pass


def test_a_connection_breaks_when_the_other_host_is_gone() -> None:
    """Both ends ask the kernel to probe the other host; the test on a cluster cuts a real one off."""
    with transport.listen("127.0.0.1") as server:
        ours = []
        thread = threading.Thread(target=lambda: ours.append(transport.accept(server.accept()[0], b"s")))
        thread.start()
        theirs = transport.connect(server.getsockname(), b"s")
        thread.join()
        for connection in (*ours, theirs):
            with connection, socket.socket(fileno=os.dup(connection.fileno())) as same:
                for level, option, value in transport.KEEPALIVE:
                    assert same.getsockopt(level, option) == value
                assert same.gettimeout() is None
