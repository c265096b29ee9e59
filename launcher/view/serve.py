"""Serves the pages on a port of this machine, while a run goes on or until Ctrl-C."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launcher.asgi.config import Limits
from launcher.asgi.server import bind, serving
from launcher.view.app import View
from launcher.view.folders import Roots

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 2.0
CONNECTIONS = 64


@contextmanager
def served(folders: Sequence[Path], port: int) -> Iterator[str]:
    """Serve the pages of ``folders`` and yield their address. Port 0 is any free one. Raises `UserError`."""
    bound = bind(HOST, port, "monitor")
    token = secrets.token_urlsafe(16)
    view = View(Roots(list(folders)), token)
    limits = Limits(header_bytes=16_384, body_bytes=1024, connections=CONNECTIONS)
    address = f"http://{HOST}:{bound.getsockname()[1]}/{token}/"
    with serving(view, bound, _no_log(), STOP_TIMEOUT_S, limits):
        try:
            yield address
        finally:
            view.close()


def _no_log() -> logging.Logger:
    """Return a log that keeps nothing: the address of each request has the token in it."""
    log = logging.Logger("launcher.view", logging.CRITICAL)
    log.addHandler(logging.NullHandler())
    return log
