"""Ports for a program that does not say when they are taken."""

from __future__ import annotations

import errno
import os
import random
import socket
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.errors import UserError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10000
TRIES = 20


@dataclass(frozen=True)
class Ports:
    """Where Triton listens: KServe over HTTP and over gRPC, and its metrics. 0 is any free port."""

    http: int = 0
    grpc: int = 0
    metrics: int = 0


def choose(host: str, wanted: Ports, last: Ports | None = None) -> Ports:
    """Return ports that are free now; for 0 those used ``last`` if they still are.

    Raises `UserError` that names a port which is taken: Triton would start, and its clients meet the other program.
    """
    with ExitStack() as held:
        found: dict[str, int] = {}
        for name, port in asdict(wanted).items():
            before = asdict(last)[name] if last is not None and not port else 0
            found[name] = _held(held, host, name, port, before)
        return Ports(**found)


def _held(held: ExitStack, host: str, name: str, port: int, before: int) -> int:
    if before:
        try:
            return _listen(held, host, before)
        except OSError:
            pass
    try:
        return _listen(held, host, port) if port else _any(held, host)
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            where, free = f"backend.{name}_port={port}", f"backend.{name}_port=0 is any free one"
            raise UserError(f"{where}: cannot listen there on {host}: {why}; {free}") from None
        raise UserError(
            f"backend.triton_host={host}: cannot listen there ({why}); accepted is an address of this machine"
        ) from None


def _any(held: ExitStack, host: str) -> int:
    """Find a free port below those that the system gives to clients: there, it could be gone before Triton has it."""
    highest = int(RANGE.read_text().split()[0]) - 1 if RANGE.exists() else LOWEST
    for _ in range(TRIES if highest > LOWEST else 0):
        with suppress(OSError):
            return _listen(held, host, random.randint(LOWEST, highest))
    return _listen(held, host, 0)


def _listen(held: ExitStack, host: str, port: int) -> int:
    """Listen for a moment: only that shows that nobody else does."""
    server = held.enter_context(socket.create_server((host, port)))
    return int(server.getsockname()[1])
