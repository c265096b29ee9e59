"""Reads the requests of one connection, within limits, and refuses what must not pass."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

import httptools

from launcher.asgi.errors import ApiError
from launcher.proxy.head import ClientRequest, Head, read_head
from launcher.proxy.service import KnownHead, Service

KEEP_ALIVE_S = 75.0
"""How long an idle connection stays open, so that a client's pool survives a pause between bursts."""
REMEMBERED, REMEMBERED_BYTES = 2048, 4096
"""How many heads are kept, and the largest one."""
IDLE, HEAD, BODY, REFUSED = range(4)


class Refusal(NamedTuple):
    """What to answer in place of a request that must not pass; the connection ends with it."""

    error: ApiError
    head_only: bool


class Taker(Protocol):
    """Gets what a client sends."""

    def take(self, item: ClientRequest | Refusal) -> None:
        """Take a whole request, or a refusal, after which there is nothing more."""

    def expect_body(self) -> None:
        """Have a client that waits for a ``100 Continue`` send its body."""


class RequestReader:
    """The side of a connection that reads. ``state`` says what comes next, and ``deadline`` until when."""

    def __init__(self, client: Taker, service: Service) -> None:
        self.state = IDLE
        self._client = client
        self._service = service
        self._limits = service.limits
        self._heads = service.heads
        self._time = asyncio.get_running_loop().time
        self.deadline: float | None = self._time() + self._limits.header_timeout_s
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._head: Head | None = None
        self._size = 0
        self._messages = 0
        self._keep_alive = False
        """Whether the connection stays after the last request that came."""

    def close(self) -> None:
        """Read no more, and let go of what refers to this object, which would live on as cyclic garbage."""
        self.state = REFUSED
        del self._parser, self._client

    def known(self, data: bytes) -> ClientRequest | None:
        """Return a whole request whose head, byte for byte, has passed before: it needs no parser."""
        if self.state != IDLE:
            return None
        end = data.find(b"\r\n\r\n") + 4
        known = self._heads.get(data[:end])
        if known is None or len(data) != end + known.head.length:
            return None
        self.deadline = None
        return ClientRequest(known.head, data[end:], known.keep_alive, True)

    def feed(self, data: bytes) -> None:
        """Read what has come; each whole request goes to the client's `Taker`."""
        if self.state == REFUSED:
            return
        at_start, before = self.state == IDLE, self._messages
        self._feed(data)
        if at_start and self.state == IDLE and self._messages == before + 1:
            self._remember(data)
        if self.state == HEAD and before == self._messages:
            self._size += len(data)  # only the parser knows the size of an unfinished header
            if self._size > self._limits.header_bytes:
                self.refuse(self._large_head())

    def refuse(self, error: ApiError) -> None:
        """Have an error answered after the answers that come before it, and read no more."""
        if self.state == REFUSED:
            return
        self.state, self.deadline, self._parts = REFUSED, None, []
        self._client.take(Refusal(error, self._parser.get_method() == b"HEAD" if self._url else False))

    def answered(self) -> None:
        """Begin to wait for the next request, or for the rest of one that began while another was answered."""
        if self.state == IDLE:
            self.deadline = self._time() + KEEP_ALIVE_S
            return
        limits = self._limits
        self.deadline = self._time() + (limits.body_timeout_s if self.state == BODY else limits.header_timeout_s)
        if self.state == BODY and self._head is not None and self._head.waits_for_continue and not self._parts:
            self._client.expect_body()

    def refuse_late(self) -> None:
        """Refuse a request of which the rest did not come in time."""
        limits = self._limits
        part, seconds = ("body", limits.body_timeout_s) if self.state == BODY else ("head", limits.header_timeout_s)
        message = f"the request's {part} did not arrive within {seconds:g} s"
        self.refuse(ApiError(408, message, code="request_timeout"))

    def _remember(self, data: bytes) -> None:
        """Keep the head of a whole request in one piece, without chunks, that has passed."""
        head, end = self._head, data.find(b"\r\n\r\n") + 4
        is_plain = head is not None and len(data) == end + head.length and self._parser.get_http_version() == "1.1"
        if head is None or not is_plain or end > REMEMBERED_BYTES or head.waits_for_continue:
            return
        if data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end) == len(self._headers) + 2:
            heads = self._service.heads
            if len(heads) >= REMEMBERED:
                heads.clear()
            heads[data[:end]] = KnownHead(head, self._keep_alive)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.state == REFUSED:
                    return
                data = self._without_offer() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.refuse(ApiError(400, "malformed HTTP request", code="malformed_request"))
                return

    def _without_offer(self) -> bytes:
        """Return the head of a request without its offer of another protocol, for a new parser.

        A server may ignore the offer (RFC 9110, 7.8), but the parser would then take the body for the other protocol.
        """
        first = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        kept = [header for header in self._headers if header[0].lower() not in (b"connection", b"upgrade")]
        if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in self._headers):
            kept.append((b"Connection", b"close"))
        self._parser = httptools.HttpRequestParser(self)
        return first + b"".join([b"%b: %b\r\n" % header for header in kept]) + b"\r\n"

    # Called by the parser

    def on_message_begin(self) -> None:
        if self.state == REFUSED:
            return
        if self.state != HEAD:
            self.deadline = self._time() + self._limits.header_timeout_s
        self.state, self._url, self._headers, self._parts = HEAD, b"", [], []
        self._head, self._size = None, 0
        self._messages += 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state == HEAD:  # later ones are trailers
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.state == REFUSED or (self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"):
            return  # `_feed` parses the head again, without the offer
        try:
            self._head = head = self._checked_head()
        except ApiError as error:
            self.refuse(error)
            return
        self.state, self._size = BODY, 0
        self.deadline = self._time() + self._limits.body_timeout_s
        if head.waits_for_continue:
            self._client.expect_body()

    def _checked_head(self) -> Head:
        """Return the head of a request that may pass, as far as its head tells. Raises `ApiError`."""
        limits, method = self._limits, self._parser.get_method()
        size = len(self._url) + sum([len(name) + len(value) + 4 for name, value in self._headers])
        if size > limits.header_bytes or len(self._headers) > limits.headers:
            raise self._large_head()
        if method == b"CONNECT":
            raise ApiError(405, "CONNECT: the proxy stands in front of one endpoint only", code="method_not_allowed")
        head = read_head(method, self._url, self._parser.get_http_version(), self._headers)
        if head.length > limits.body_bytes:
            raise self._large_body()
        if (error := self._service.answering.refusal(head)) is not None:
            raise error
        return head

    def on_body(self, body: bytes) -> None:
        if self.state != BODY:
            return
        self._size += len(body)
        self._parts.append(body)
        if self._size > self._limits.body_bytes:
            self.refuse(self._large_body())

    def on_message_complete(self) -> None:
        head = self._head
        if self.state != BODY or head is None:
            return
        self.state, self.deadline = IDLE, None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        modern = self._parser.get_http_version() == "1.1"
        self._keep_alive = modern and self._parser.should_keep_alive()
        self._parts = []
        self._client.take(ClientRequest(head, body, self._keep_alive, modern))

    def _large_head(self) -> ApiError:
        limits = self._limits
        most = f"{limits.header_bytes} bytes and {limits.headers} headers"
        return ApiError(
            431, f"the request's headers are too large; the proxy takes at most {most}", code="headers_too_large"
        )

    def _large_body(self) -> ApiError:
        most = self._limits.body_bytes
        return ApiError(
            413, f"the request's body is too large; the proxy takes at most {most} bytes", code="body_too_large"
        )
