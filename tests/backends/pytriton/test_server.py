"""One Triton, and what answers in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from launcher.backends.pytriton.ports import Ports
from launcher.backends.pytriton.server import Server, Settings


@contextmanager
def stranger(said: bytes) -> Iterator[int]:
    """Answer every request in the same way; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("said", "name"),
    [(b'{"name": "theirs"}', "theirs"), (b"{}", "nameless"), (b"[]", "no Triton"), (b"hello", "no Triton")],
)
def test_another_server_on_its_port_is_no_triton_of_ours(tmp_path: Path, said: bytes, name: str) -> None:
    settings = Settings("127.0.0.1", False, False, tmp_path / "t.json", tmp_path / "t.log", tmp_path / "engine")
    with stranger(said) as port:
        found = Server(settings, Ports(port, port, port), tmp_path / "1").wait(5)
    assert found == f"another server ({name}) answers on port {port}"
