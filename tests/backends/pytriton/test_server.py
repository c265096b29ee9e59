"""One Triton, and other servers at its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.pytriton.ports import Ports
from launcher.backends.pytriton.server import Server, ServerSettings
from tests.answering import answering


@pytest.mark.parametrize(
    ("said", "name"),
    [(b'{"name": "theirs"}', "theirs"), (b"{}", "nameless"), (b"[]", "no Triton"), (b"hello", "no Triton")],
)
def test_another_server_on_its_port_is_no_triton_of_ours(tmp_path: Path, said: bytes, name: str) -> None:
    settings = ServerSettings("127.0.0.1", False, False, tmp_path / "t.json", tmp_path / "t.log", tmp_path / "engine")
    with answering(said) as (_, port):
        server = Server(settings, Ports(port, port, port), tmp_path / "1")
        tries = (server.wait(5) for _ in range(20))  # a busy machine may answer too late
        found = next((each for each in tries if each != "it died during its start"), None)
    assert found == f"another server ({name}) answers on port {port}"
