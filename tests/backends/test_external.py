from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.base import check_single_process
from launcher.backends.external import External
from launcher.backends.inline import Inline
from launcher.backends.ray import Ray
from launcher.core.client import Client
from launcher.core.errors import ServerError, UserError
from launcher.core.types import Endpoint, Request, Response
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.engines.none import Nothing
from launcher.settings.model import Model, Optimizations, Parallelism, ToolCallParser


def deployment(folder: Path) -> Deployment:
    return Deployment(Model("none"), Nothing(), Parallelism(), Optimizations(), folder)


def reached(folder: Path, **settings: object) -> Endpoint:
    with External(**settings).serve(deployment(folder), allocate()) as endpoint:  # type: ignore[arg-type]
        return endpoint


@contextmanager
def server(status: int, body: str) -> Iterator[str]:
    """A server that says one thing, in its own thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/v1"
        finally:
            http.shutdown()
            thread.join()


def listing(*names: str) -> str:
    return '{"data": [' + ", ".join(f'{{"id": "{name}"}}' for name in names) + "]}"


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("THEIR_KEY", "secret")
    served = Deployment(Model("theirs"), Echo(), Parallelism(), Optimizations(), tmp_path / "served")
    with Inline(api_key_env="THEIR_KEY").serve(served, allocate()) as endpoint:
        yield endpoint.url


def test_the_only_model_is_taken(tmp_path: Path, ours: str) -> None:
    endpoint = reached(tmp_path, url=f"{ours}/", api_key_env="THEIR_KEY", engine="vllm")
    assert endpoint == Endpoint(ours, "theirs", "external", "vllm", "secret", is_builtin=False)
    assert not list(tmp_path.glob("*.log"))


def test_a_model_by_name(tmp_path: Path, ours: str) -> None:
    assert reached(tmp_path, url=ours, api_key_env="THEIR_KEY", model="theirs").model == "theirs"
    with pytest.raises(UserError, match=r"backend.model=other: not served; expected one of theirs"):
        reached(tmp_path, url=ours, api_key_env="THEIR_KEY", model="other")


def test_a_refused_key_says_what_to_set(tmp_path: Path, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"HTTP 401.*set backend.api_key_env"):
        reached(tmp_path, url=ours)
    monkeypatch.setenv("WRONG_KEY", "wrong")
    with pytest.raises(UserError, match=r"HTTP 401.*WRONG_KEY") as raised:
        reached(tmp_path, url=ours, api_key_env="WRONG_KEY")
    assert "wrong'" not in str(raised.value)


def test_a_key_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match="api_key_env=NO_KEY"):
        External("http://127.0.0.1:1/v1", api_key_env="NO_KEY").plan(deployment(tmp_path), allocate())


def test_several_models_are_named(tmp_path: Path) -> None:
    with server(200, listing("a", "b")) as url:
        with pytest.raises(UserError, match=r"backend.model: .* set it to one of: a, b"):
            reached(tmp_path, url=url)
        assert reached(tmp_path, url=url, model="b").model == "b"


def test_no_models_at_all(tmp_path: Path) -> None:
    with server(200, listing()) as url, pytest.raises(UserError, match="set it to one of"):
        reached(tmp_path, url=url)


@pytest.mark.parametrize(("status", "body"), [(404, "nothing"), (200, "<html>"), (200, '{"data": 5}')])
def test_a_server_that_lists_nothing_needs_a_name(tmp_path: Path, status: int, body: str) -> None:
    with server(status, body) as url:
        assert reached(tmp_path, url=url, model="m").model == "m"
        with pytest.raises(UserError, match=r"backend.model: .* set it to the name"):
            reached(tmp_path, url=url)


@contextmanager
def only_uuids(ids: list[str]) -> Iterator[str]:
    """A server that answers an id of a request that is no UUID with HTTP 400, as llama-cpp-python does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ids.append(self.headers.get("x-request-id", ""))
            status, body = (200, listing("m")) if not ids[-1] or is_uuid(ids[-1]) else (400, "Wrong uuid")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/v1"
        finally:
            http.shutdown()
            thread.join()


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text, version=4)) == text
    except ValueError:
        return False


def test_a_server_that_takes_only_uuids_gets_them(tmp_path: Path) -> None:
    ids: list[str] = []

    async def send(endpoint: Endpoint) -> list[Response]:
        requests = [Request("/v1/completions", {}, sample=f"t/{each}/0") for each in (0, 1, 1)]
        async with Client(endpoint, timeout_s=60) as client:
            return [await client(request) for request in requests]

    with only_uuids(ids) as url:
        endpoint = reached(tmp_path, url=url)
        assert [each.status for each in asyncio.run(send(endpoint))] == [200, 200, 200]
    first, second, again = ids[-3:]
    assert is_uuid(first)
    assert first != second == again


def test_a_server_of_ours_gets_the_ids_of_samples(tmp_path: Path, ours: str) -> None:
    assert not reached(tmp_path, url=ours, api_key_env="THEIR_KEY").uuid_ids


def test_a_server_that_fails(tmp_path: Path) -> None:
    with server(503, "") as url, pytest.raises(ServerError, match="HTTP 503"):
        reached(tmp_path, url=url, model="m")


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=rf"backend.url=http://127.0.0.1:{port}/v1: no server answers"):
        reached(tmp_path, url=f"http://127.0.0.1:{port}/v1")


def test_a_server_that_hangs_has_a_deadline(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ServerError, match=r"no answer within 0\.05 s"):
            reached(tmp_path, url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout_s=0.05)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000/v1", "http://host:8000", "ftp://host/v1", "http:///v1", "http://h:x/v1", "http://h/v1?a=b", ""],
)
def test_a_url_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"backend.url=.*expected http\(s\)://host"):
        External(url).plan(deployment(tmp_path), allocate())


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("model.path", {"model": Model(path="x")}),
        ("model.tool_call_parser", {"model": Model(tool_call_parser=ToolCallParser.hermes)}),
        ("parallelism", {"parallelism": Parallelism(tensor=2)}),
    ],
)
def test_a_setting_that_the_server_is_started_with_is_refused(
    key: str, changed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"^{key}: has no effect with backend=external"):
        External("http://127.0.0.1:1/v1").plan(replace(deployment(tmp_path), **changed), allocate())


def test_several_processes_are_refused_where_one_does_all() -> None:
    started = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(UserError, match=r"backend=external: this backend runs in one process, got a world size of 2"):
        check_single_process(External("http://127.0.0.1:1/v1"), allocate(started))
    for backend in (Inline(), Ray()):
        check_single_process(backend, allocate(started))
