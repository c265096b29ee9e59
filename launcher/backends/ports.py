"""Free ports for programs that must be told where to listen."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10000
TRIES = 20


def free(host: str) -> int:
    """Return a free port below the system's range for clients, which could take it before the program binds it.

    Raises `OSError` if ``host`` is no address of this machine.
    """
    highest = int(RANGE.read_text().split()[0]) - 1 if RANGE.exists() else LOWEST
    for _ in range(TRIES if highest > LOWEST else 0):
        try:
            return _listen(host, random.randint(LOWEST, highest))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _listen(host, 0)


def _listen(host: str, port: int) -> int:
    """Bind a port and close it: only that shows that it is free."""
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        return int(server.getsockname()[1])
