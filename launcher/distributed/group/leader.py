"""Rank 0 of a group: it waits for the other ranks, starts processes on them, and detects lost ranks."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import RankLost, ServerError, UserError
from launcher.core.logs import LogFile
from launcher.distributed.allocation import LOOPBACK, Allocation, Member
from launcher.distributed.group import rendezvous, transport
from launcher.distributed.group.messages import ChildConnection, Join, Shutdown, Start, Stop, Stopped, Terminated
from launcher.distributed.group.rendezvous import Rendezvous

JOIN_TIMEOUT_S = 300.0
"""How long the other ranks may take to join: a node may be slow to boot or to import."""
WAITING_MESSAGE_S = 5.0
"""After how many seconds the ranks that have not joined are named."""
START_TIMEOUT_S = 60.0
LATE_JOIN_TIMEOUT_S = 30.0
"""How long a leader that is done waits for the ranks that have not joined yet, to shut them down."""


class Peer:
    """The leader's connection to another rank; its agent may host one child process."""

    def __init__(self, member: Member, control: Connection) -> None:
        self.member = member
        self.lost = threading.Event()
        self.stopped = threading.Event()
        self._control = control
        self._guard = threading.Lock()

    def __str__(self) -> str:
        return f"rank {self.member.rank} on {self.member.node}"

    def send(self, message: object) -> None:
        with self._guard, suppress(OSError):  # the thread that reads from it sets `lost`
            self._control.send(message)

    def close(self) -> None:
        self._control.close()


class Group:
    """The processes that were started together with this one. Implements `launcher.distributed.allocation.Ranks`."""

    def __init__(self, allocation: Allocation, server: socket.socket, secret: bytes) -> None:
        self.address = str(server.getsockname()[0])
        self._allocation = allocation
        self._server = server
        self._secret = secret
        self._peers: dict[int, Peer] = {}
        self._tickets: dict[str, Future[Connection]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="group", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float = JOIN_TIMEOUT_S) -> list[Member]:
        deadline, printed = time.monotonic() + timeout_s, False
        with self._changed:
            while missing := self._missing():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ServerError(
                        f"{self._allocation.name}: rank {_some(missing)} did not join within {timeout_s:g} s"
                    )
                if not self._changed.wait(min(left, WAITING_MESSAGE_S)) and not printed:
                    printed = True
                    to_stderr(f"group: waiting for rank {_some(missing)}")
        lost = [peer for peer in self._peers.values() if peer.lost.is_set()]
        if lost:
            raise RankLost(f"{lost[0]} is lost")
        return [self._peers[rank].member for rank in sorted(self._peers)]

    def _missing(self) -> list[int]:
        return [rank for rank in range(1, self._allocation.world_size) if rank not in self._peers]

    def start(self, rank: int, module: str, environment: Mapping[str, str], log: LogFile | None = None) -> Connection:
        peer, ticket, connection = self._peers[rank], secrets.token_hex(8), Future[Connection]()
        self._tickets[ticket] = connection
        peer.send(Start(ticket, module, environment, log))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not peer.lost.is_set() and time.monotonic() < deadline:
            with suppress(TooLate):
                return connection.result(0.1)
        if self._tickets.pop(ticket, None) is None:  # the connection came just now
            return connection.result()
        raise RankLost(f"{peer} {'is lost' if peer.lost.is_set() else 'does not answer'}")

    def stop(self, rank: int, grace_s: float, *, wait: bool = True) -> None:
        peer = self._peers[rank]
        peer.stopped.clear()
        peer.send(Stop(grace_s))
        if not wait:
            return
        deadline = time.monotonic() + grace_s + transport.KEEPALIVE_TIMEOUT_S
        while not peer.lost.is_set() and not peer.stopped.wait(0.1) and time.monotonic() < deadline:
            pass

    def close(self) -> None:
        """Shut the other ranks down."""
        self._closing = True
        for peer in list(self._peers.values()):
            peer.send(Shutdown())
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the server was shut down
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._handshake, args=(caller,), name="group-member", daemon=True).start()

    def _handshake(self, caller: socket.socket) -> None:
        """Accept a connection; close it without the secret, or without a valid first message."""
        try:
            connection = transport.accept(caller, self._secret)
            match connection.recv():
                case Join(member) if member.rank in self._missing():
                    self._listen(Peer(member, connection))
                case ChildConnection(ticket) if waiting := self._tickets.pop(ticket, None):
                    waiting.set_result(connection)
                case _:
                    connection.close()
        except (OSError, EOFError, AuthenticationError):
            caller.close()

    def _listen(self, peer: Peer) -> None:
        with self._changed:
            self._peers[peer.member.rank] = peer
            self._changed.notify_all()
        with suppress(EOFError, OSError):
            while True:
                match peer._control.recv():
                    case Stopped():
                        peer.stopped.set()
                    case Terminated() if not self._closing:
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        peer.lost.set()
        peer.close()


def _some(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


@contextmanager
def leading(allocation: Allocation, folder: Path | None = None) -> Iterator[Allocation]:
    """Yield the allocation with its ``ranks``, whose rendezvous is in ``folder``; unchanged for a single process.

    On leaving the context all ranks end. Raises `UserError` if other nodes cannot reach this host.
    """
    if allocation.world_size == 1:
        yield allocation
        return
    path, secret = rendezvous.file(folder or rendezvous.folder(), allocation), secrets.token_hex(32)
    with transport.listen(_own_address(allocation)) as server:
        group = Group(allocation, server, secret.encode())
        try:
            with rendezvous.published(path, Rendezvous(group.address, server.getsockname()[1], secret)):
                yield replace(allocation, ranks=group)
                with suppress(ServerError):
                    group.wait(LATE_JOIN_TIMEOUT_S)
        finally:
            group.close()


def _own_address(allocation: Allocation) -> str:
    try:
        found = transport.address_towards(allocation.reach)
    except OSError as error:
        raise UserError(f"{allocation.name}: there is no route to {allocation.reach}: {error}") from None
    if found.startswith("127.") and allocation.reach != LOOPBACK:
        raise UserError(f"{allocation.reach}: this host resolves to {found}, which other nodes cannot reach")
    return found
