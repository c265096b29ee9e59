"""Servers whose answers a test writes byte by byte, and the proxy in front of them, in this process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from launcher.adapters.base import Adapter
from launcher.asgi.config import Limits
from launcher.core.types import Endpoint
from launcher.proxy.front import Front
from launcher.proxy.metrics import Counters, create
from launcher.proxy.settings import Proxy
from launcher.proxy.worker import answering

RUN = "0123456789abcdef"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
Step = bytes | threading.Event | None
"""What a script does next: it sends bytes, waits for an event, or (None) ends the connection."""


def whole(body: object, status: str = "200 OK", *headers: str) -> list[Step]:
    """Return the script of a whole answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + data]


def stream(*parts: Step, end: bool = True) -> list[Step]:
    """Return the script of a stream in chunks."""
    steps: list[Step] = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"]
    steps += [b"%x\r\n%b\r\n" % (len(part), part) if isinstance(part, bytes) else part for part in parts]
    return [*steps, b"0\r\n\r\n"] if end else steps


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    found = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass
class Seen:
    """A request as the endpoint got it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client of this request leaves."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class Scripted:
    """A server that answers each request with a script."""

    url: str
    requests: list[Seen]


@contextmanager
def scripted(answer: Callable[[Seen], Sequence[Step]]) -> Iterator[Scripted]:
    """Run a server whose answers are what ``answer`` returns."""
    seen: list[Seen] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while (request := await _request(reader)) is not None:
                if " /warm " in request.line:
                    await _play(writer, whole({}))
                    continue
                seen.append(request)
                watch = asyncio.ensure_future(_watched(reader, request))
                try:
                    await _play(writer, answer(request))
                except ConnectionError:
                    request.left.set()
                    raise
                finally:
                    watch.cancel()
        writer.close()

    @asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    with in_thread(serving) as port:
        yield Scripted(f"http://127.0.0.1:{port}/v1", seen)


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest)]
    length = int(next((value for name, value in headers if name.lower() == "content-length"), "0"))
    return Seen(line, headers, await reader.readexactly(length))


async def _watched(reader: asyncio.StreamReader, request: Seen) -> None:
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)
    request.left.set()


async def _play(writer: asyncio.StreamWriter, steps: Sequence[Step]) -> None:
    for step in steps:
        if isinstance(step, threading.Event):
            while not step.is_set():
                await asyncio.sleep(0.002)
        elif step is None:
            raise ConnectionError
        else:
            writer.write(step)
            await writer.drain()


@contextmanager
def in_thread(serving: Callable[[], Any]) -> Iterator[Any]:
    """Run an asynchronous context manager in a thread with an event loop; yield what it yields."""
    loop, stop, found = uvloop.new_event_loop(), asyncio.Event(), list[Any]()
    ready = threading.Event()

    async def run() -> None:
        async with serving() as value:
            found.append(value)
            ready.set()
            await stop.wait()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def work() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(60)
        assert found, "the server did not start"
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


@dataclass
class Mounted:
    """A proxy in a thread of this process."""

    address: tuple[str, int]
    folder: Path
    counters: Counters

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}/v1"


class Warm(tuple[Adapter, ...]):
    """A chain in a proxy that has an idle connection to the endpoint: the next request needs no task."""


@contextmanager
def through(server: Scripted, chain: Sequence[Adapter], **settings: Any) -> Iterator[Mounted]:
    """Run the proxy in front of a server, with a chain of adapters that may be `Warm`."""
    with mounted(server.url, *chain, **settings) as proxy:
        if isinstance(chain, Warm):
            key = settings.get("key") or "none"
            request = f"GET /warm HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
            with socket.create_connection(proxy.address) as client:
                client.sendall(request.encode())
                while client.recv(1000):
                    continue
        yield proxy


@contextmanager
def mounted(
    url: str, *adapters: Adapter, key: str | None = None, api_key: str | None = None, limits: Limits | None = None,
    **settings: Any,
) -> Iterator[Mounted]:  # fmt: skip
    """Run the proxy in front of a server, with the code that a worker runs."""
    proxy = Proxy(stop_timeout_s=settings.pop("stop_timeout_s", 5.0), limits=limits or Limits(), **settings)
    endpoint = Endpoint(url, "m", "external", "x", api_key, is_builtin=False)
    listener = socket.create_server(("127.0.0.1", 0))
    descriptor = create(1)
    counters = Counters(descriptor, 1)
    with tempfile.TemporaryDirectory() as folder:

        @asynccontextmanager
        async def serving() -> AsyncIterator[Mounted]:
            stop, ready = asyncio.Event(), asyncio.Event()
            async with answering(proxy, endpoint, adapters, Path(folder), None, counters, RUN, key) as service:
                task = asyncio.ensure_future(Front(proxy, service, listener, counters).serve(stop, ready.set))
                await ready.wait()
                try:
                    yield Mounted(("127.0.0.1", port), Path(folder), counters)
                finally:
                    stop.set()
                    await task

        port = listener.getsockname()[1]
        with in_thread(serving) as found:
            yield found
    counters.close()
    os.close(descriptor)
