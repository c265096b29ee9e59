"""Free ports for Triton, which does not report a port that is in use."""

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
    """The ports of KServe over HTTP and gRPC, and of Triton's metrics. 0 is any free port."""

    http: int = 0
    grpc: int = 0
    metrics: int = 0


def choose(host: str, wanted: Ports, last: Ports | None = None) -> Ports:
    """Return ports that are free now. For 0 a port of ``last`` is preferred.

    Raises `UserError` for a port that is in use: Triton would start, and its clients would reach the other program.
    """
    with ExitStack() as stack:
        found: dict[str, int] = {}
        for name, port in asdict(wanted).items():
            previous = asdict(last)[name] if last is not None and not port else 0
            found[name] = _reserve(stack, host, name, port, previous)
        return Ports(**found)


def _reserve(stack: ExitStack, host: str, name: str, port: int, previous: int) -> int:
    if previous:
        try:
            return _listen(stack, host, previous)
        except OSError:
            pass
    try:
        return _listen(stack, host, port or free(host))
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            where, instead = f"backend.{name}_port={port}", f"backend.{name}_port=0 is any free one"
            raise UserError(f"{where}: cannot listen there on {host}: {why}; {instead}") from None
        raise UserError(
            f"backend.triton_host={host}: cannot listen there ({why}); must be an address of this machine"
        ) from None


def _listen(stack: ExitStack, host: str, port: int) -> int:
    """Bind a port until ``stack`` closes: only that shows that it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = stack.enter_context(socket.create_server((host, port), family=family))
    return int(server.getsockname()[1])
