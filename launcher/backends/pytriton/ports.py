"""Ports for a program that does not say when they are taken."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from launcher.backends.ports import free
from launcher.core.errors import UserError


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
        return _listen(held, host, port or free(host))
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            where, instead = f"backend.{name}_port={port}", f"backend.{name}_port=0 is any free one"
            raise UserError(f"{where}: cannot listen there on {host}: {why}; {instead}") from None
        raise UserError(
            f"backend.triton_host={host}: cannot listen there ({why}); accepted is an address of this machine"
        ) from None


def _listen(held: ExitStack, host: str, port: int) -> int:
    """Listen for a moment: only that shows that nobody else does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = held.enter_context(socket.create_server((host, port), family=family))
    return int(server.getsockname()[1])
