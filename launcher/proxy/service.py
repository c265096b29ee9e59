"""What the connections of clients share: their limits, the heads that passed, and who answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from launcher.asgi.config import Limits
from launcher.asgi.errors import ApiError
from launcher.core.write_queue import WriteQueue
from launcher.proxy.head import ClientRequest, Head
from launcher.proxy.relay import Relay
from launcher.proxy.reply import Reply

Started = tuple[Relay, bytes, bytes]
"""A relay that has a connection, and the head and the body to send there."""


class Answering(Protocol):
    """Answers requests."""

    def refusal(self, head: Head) -> ApiError | None:
        """Return why a request with a head must not pass."""

    def refused(self, error: ApiError, reply: Reply) -> None:
        """Answer a request that must not pass."""

    def relay(self, request: ClientRequest, reply: Reply, on_done: Callable[[Relay, bool], None]) -> Started | None:
        """Begin to pass a request on at once, where that is possible.

        ``on_done`` is called at the end, and told whether the request has to be answered again.
        """

    def drives(self, request: ClientRequest) -> bool:
        """Tell whether a request that has to be answered otherwise needs no task for that."""

    def answer(self, request: ClientRequest, reply: Reply) -> Coroutine[Any, Any, None]:
        """Answer a request; where that is not possible any more, the reply stays incomplete."""


class KnownHead(NamedTuple):
    """A head that has passed, and whether its connection stays."""

    head: Head
    keep_alive: bool


class ServedConnection(Protocol):
    """A connection, as the service ends it."""

    def drain(self) -> None: ...

    def check_time(self, now: float) -> None: ...

    def cut(self, error: ApiError) -> None: ...


class Service:
    """What connections share."""

    def __init__(self, limits: Limits, most: int, own_headers: bytes, write_queue: WriteQueue) -> None:
        self.limits = limits
        self.most = most
        """How many connections there may be."""
        self.own_headers = own_headers
        self.write_queue = write_queue
        self.connections: set[ServedConnection] = set()
        self.draining = False
        self.heads: dict[bytes, KnownHead] = {}
        """The heads of requests that passed: most clients send the same few again and again."""
        self.answering: Answering

    def drain(self) -> None:
        """Take no further requests: idle connections end now, the others with their last answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        for connection in list(self.connections):
            connection.check_time(now)
