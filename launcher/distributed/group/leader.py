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
from launcher.core.errors import ServerError, UserError
from launcher.distributed.allocation import LOOPBACK, Allocation, Member
from launcher.distributed.group import rendezvous, transport
from launcher.distributed.group.messages import Answer, Ending, Hello, Leave, Start, Stop, Stopped
from launcher.distributed.group.rendezvous import Rendezvous

JOIN_S = 300.0
"""How long the others may take to come: a node may be slow to boot or to import."""
PATIENT_S = 5.0
START_S = 60.0
LATE_S = 30.0
"""How long a leader that is done waits for those who have not come yet, to tell them."""


class Peer:
    """Another process of the group, and what was started beside it."""

    def __init__(self, member: Member, control: Connection) -> None:
        self.member = member
        self.lost = threading.Event()
        self.stopped = threading.Event()
        self._control = control
        self._guard = threading.Lock()

    def __str__(self) -> str:
        return f"rank {self.member.rank} on {self.member.node}"

    def send(self, order: object) -> None:
        with self._guard, suppress(OSError):  # who listens to it says that it is gone
            self._control.send(order)

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

    def wait(self, timeout_s: float = JOIN_S) -> list[Member]:
        deadline, told = time.monotonic() + timeout_s, False
        with self._changed:
            while missing := self._missing():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ServerError(f"{self._allocation.name}: rank {_some(missing)} did not come in {timeout_s:g} s")
                if not self._changed.wait(min(left, PATIENT_S)) and not told:
                    told = True
                    to_stderr(f"group: waiting for rank {_some(missing)}")
        gone = [peer for peer in self._peers.values() if peer.lost.is_set()]
        if gone:
            raise ServerError(f"{gone[0]} is gone")
        return [self._peers[rank].member for rank in sorted(self._peers)]

    def _missing(self) -> list[int]:
        return [rank for rank in range(1, self._allocation.world_size) if rank not in self._peers]

    def start(self, rank: int, module: str, environment: Mapping[str, str]) -> Connection:
        peer, ticket, answer = self._peers[rank], secrets.token_hex(8), Future[Connection]()
        self._tickets[ticket] = answer
        peer.send(Start(ticket, module, environment))
        deadline = time.monotonic() + START_S
        while not peer.lost.is_set() and time.monotonic() < deadline:
            with suppress(TooLate):
                return answer.result(0.1)
        if self._tickets.pop(ticket, None) is None:  # the answer came just now
            return answer.result()
        raise ServerError(f"{peer} {'is gone' if peer.lost.is_set() else 'does not answer'}")

    def stop(self, rank: int, grace_s: float, *, wait: bool = True) -> None:
        peer = self._peers[rank]
        peer.stopped.clear()
        peer.send(Stop(grace_s))
        if not wait:
            return
        deadline = time.monotonic() + grace_s + transport.LOST_S
        while not peer.lost.is_set() and not peer.stopped.wait(0.1) and time.monotonic() < deadline:
            pass

    def close(self) -> None:
        """Tell the others that it is over."""
        self._closing = True
        for peer in list(self._peers.values()):
            peer.send(Leave())
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the server was shut down
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._welcome, args=(caller,), name="group-member", daemon=True).start()

    def _welcome(self, caller: socket.socket) -> None:
        """Accept a connection; close it without the secret, or without a valid first message."""
        try:
            connection = transport.welcome(caller, self._secret)
            match connection.recv():
                case Hello(member) if member.rank in self._missing():
                    self._listen(Peer(member, connection))
                case Answer(ticket) if answer := self._tickets.pop(ticket, None):
                    answer.set_result(connection)
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
                    case Ending() if not self._closing:
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        peer.lost.set()
        peer.close()


def _some(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


@contextmanager
def leading(allocation: Allocation, folder: Path | None = None) -> Iterator[Allocation]:
    """Yield the allocation with its ``ranks``, which meet in ``folder``; a process that is alone gets it as it is.

    On leaving all of them end. Raises `UserError` if the others could not reach this host.
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
                    group.wait(LATE_S)
        finally:
            group.close()


def _own_address(allocation: Allocation) -> str:
    try:
        found = transport.address_towards(allocation.reach)
    except OSError as error:
        raise UserError(f"{allocation.name}: no way from here to {allocation.reach}: {error}") from None
    if found.startswith("127.") and allocation.reach != LOOPBACK:
        raise UserError(f"{allocation.reach}: here this is {found}, which other nodes do not reach")
    return found
