"""Authenticated connections within a group, without delay; they break soon after the other side is lost."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

KEEPALIVE_TIMEOUT_S = 6
"""After how many seconds of silence a host counts as lost. The kernel probes it every second."""
HANDSHAKE_TIMEOUT_S = 10
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TIMEOUT_S - 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEPALIVE_TIMEOUT_S * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)

Step = Callable[[Connection, bytes], None]


def listen(host: str) -> socket.socket:
    """Listen on any free port of one address."""
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, 0), family=family, backlog=1024)


def accept(caller: socket.socket, secret: bytes) -> Connection:
    """Return a connection to a caller that knows the secret. Raises `OSError`, `EOFError` or `AuthenticationError`."""
    return _secured(caller, secret, (deliver_challenge, answer_challenge))


def connect(address: tuple[str, int], secret: bytes, timeout_s: float = 5.0) -> Connection:
    """Return a connection to a listener that knows the secret; raises as `accept` does."""
    caller = socket.create_connection(address, timeout_s)
    caller.settimeout(None)
    return _secured(caller, secret, (answer_challenge, deliver_challenge))


def _secured(caller: socket.socket, secret: bytes, steps: Sequence[Step]) -> Connection:
    for level, option, value in KEEPALIVE:
        caller.setsockopt(level, option, value)
    connection = Connection(caller.detach())
    try:
        _limit(connection, HANDSHAKE_TIMEOUT_S)
        for step in steps:
            step(connection, secret)
        _limit(connection, 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _limit(connection: Connection, seconds: int) -> None:
    """Limit the time that each read and write may take; 0 is no limit."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            same.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def peer_address(connection: Connection) -> str:
    """Return the address of the host at the other end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        return str(same.getpeername()[0])


def address_towards(host: str) -> str:
    """Return the address of this host that packets to another one come from. Raises `OSError` without a way there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])
