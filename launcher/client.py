"""The HTTP client: a `Handler` that posts to an endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import aiohttp

from launcher.core import Endpoint, Json, Request, Response, error_of
from launcher.errors import TransportError

KEEP_ALIVE_S = 4.0
"""Idle connections are closed before common servers do it (uvicorn: 5 s), so that no request meets a closing one."""
QUOTED = 300
"""Characters of an unexpected answer that an error message quotes."""
MOMENT_S = 0.5
"""After a server has stopped answering, its process may end this much later."""


class Client:
    """Calls one endpoint over at most ``concurrency`` connections; an async context manager.

    ``timeout_s`` bounds each request by itself, for a stream the wait for each of its events. Every status that the
    server answers is a `Response`; `TransportError` is raised when there is no usable answer at all. The endpoint's key
    goes into the ``Authorization`` header, unless the request brings its own.
    """

    def __init__(self, endpoint: Endpoint, *, timeout_s: float, concurrency: int = 16) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers=self._authorization(),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def __call__(self, request: Request) -> Response:
        """Post the request under the endpoint's root. Raises `TransportError`."""
        url = self._endpoint.root + request.path
        if request.body.get("stream"):
            return await self._stream(url, request.body, request.headers)
        return await self.post(url, request.body, request.headers)

    async def post(self, url: str, body: Mapping[str, Json], headers: Mapping[str, str] | None = None) -> Response:
        """Post JSON to any URL of the server and read the whole answer. Raises `TransportError`."""
        start = time.perf_counter()
        answer, data = await self._ask("POST", url, body, headers)
        return Response(answer.status, _parsed(answer, data), _plain(answer), latency_s=time.perf_counter() - start)

    async def get(self, url: str) -> Response:
        """Get any URL of the server; the body is its JSON, or else its text. Raises `TransportError`."""
        start = time.perf_counter()
        answer, data = await self._ask("GET", url, None, None)
        body = _json_or_text(data)
        return Response(answer.status, body, _plain(answer), latency_s=time.perf_counter() - start)

    async def down(self) -> str | None:
        """Return why the server does not answer ``/health``; None of one without that route, or that is only busy."""
        try:
            response = await self.get(self._endpoint.root + "/health")
        except TransportError as error:
            await asyncio.sleep(MOMENT_S)
            return self._endpoint.ended() or str(error)
        return None if response.status < 500 else _said(response)

    async def _ask(
        self, method: str, url: str, body: Mapping[str, Json] | None, headers: Mapping[str, str] | None
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        try:
            answer = await self._send(method, url, body, headers, aiohttp.ClientTimeout(total=self._timeout_s))
            return answer, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(url, error) from error

    async def _stream(self, url: str, body: Mapping[str, Json], headers: Mapping[str, str]) -> Response:
        start = time.perf_counter()
        try:
            answer = await self._send("POST", url, body, headers, self._each_event())
            if not answer.content_type.startswith("text/event-stream"):
                return Response(answer.status, _parsed(answer, await answer.read()), _plain(answer))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(url, error) from error
        latency_s = time.perf_counter() - start
        return Response(answer.status, None, _plain(answer), self._events(url, answer), latency_s)

    async def _send(
        self,
        method: str,
        url: str,
        body: Mapping[str, Json] | None,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the client is used outside of its 'async with' block")
        data = None if body is None else json.dumps(body).encode()
        typed = {"Content-Type": "application/json"} if data else {}
        return await self._session.request(
            method, url, data=data, headers=typed | dict(headers or {}), timeout=timeout, allow_redirects=False
        )

    async def _events(self, url: str, answer: aiohttp.ClientResponse) -> AsyncIterator[Json]:
        try:
            async for data in sse(answer.content.iter_any()):
                if data == "[DONE]":
                    return
                yield json.loads(data)
            raise TransportError(f"{url}: the stream ended without [DONE]")
        except json.JSONDecodeError as error:
            raise TransportError(f"{url}: an event is no JSON: {error.doc[:QUOTED]!r}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(url, error) from error
        finally:
            answer.close()

    def _authorization(self) -> dict[str, str]:
        key = self._endpoint.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _each_event(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=self._timeout_s)

    def _failure(self, url: str, error: BaseException) -> TransportError:
        if isinstance(error, TimeoutError):
            return TransportError(f"{url}: no answer within {self._timeout_s:g} s")
        return TransportError(f"{url}: {type(error).__name__}: {error}")


async def sse(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each server-sent event as soon as its last byte is there, however the bytes are cut.

    Lines end in LF or CRLF; comments and fields other than ``data`` are skipped (WHATWG HTML, 9.2.6).
    """
    rest, lines = b"", list[str]()
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for raw in whole:
            line = raw.removesuffix(b"\r").decode(errors="replace")
            if line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
            elif not line and lines:
                yield "\n".join(lines)
                lines = []


def _parsed(answer: aiohttp.ClientResponse, data: bytes) -> Json:
    """Return the JSON of an answer; what else an error status brings is put into OpenAI's error shape."""
    try:
        return json.loads(data)
    except ValueError:
        text = data[:QUOTED].decode(errors="replace")
    if answer.status < 300:
        raise TransportError(f"{answer.url}: answered HTTP {answer.status} with no JSON: {text!r}")
    where = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
    return {"error": {"message": f"HTTP {answer.status}{where}: {text}", "type": "http_error", "code": answer.status}}


def _said(response: Response) -> str:
    """Return the message of an error in OpenAI's shape, or its status."""
    message = error_of(response.body).get("message")
    return f"HTTP {response.status}" if message is None else str(message)


def _json_or_text(data: bytes) -> Json:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _plain(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return dict(answer.headers.items())
