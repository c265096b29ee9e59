"""The answer of the endpoint to a request that adapters sent."""

from __future__ import annotations

import asyncio

from launcher.core.connections import Incoming
from launcher.core.driven import waiter
from launcher.core.errors import HttpError
from launcher.core.http_connection import Connection
from launcher.proxy.relay import may_repeat


class Asked(Incoming):
    """An answer over a connection that was idle. No timer looks whether it is silent, but `check_time` now and then."""

    def __init__(self, connection: Connection, method: str, url: str, silence_s: float) -> None:
        super().__init__(connection, method, url, silence_s)
        self._source = connection
        self._time = asyncio.get_running_loop().time
        self._waits_since = 0.0

    def send(self, head: bytes, body: bytes) -> None:
        self._source.ask(self, head, body)

    def may_repeat(self, error: HttpError) -> bool:
        """Tell whether the request may be sent once more after an error."""
        return may_repeat(self, self._source, error)

    def check_time(self, now: float) -> None:
        """Give up if its reader has waited for too long."""
        if self._waiter is not None and now - self._waits_since > self._silence_timeout_s:
            self._silent()

    async def head(self) -> None:
        try:
            while not self.status:
                if self._error is not None:
                    raise self._error
                self._waits_since, self._waiter = self._time(), waiter()
                await self._waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None

    async def more(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            self._waits_since, self._waiter = self._time(), waiter()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._taken()

    async def _wait(self) -> None:
        self._waits_since, self._waiter = self._time(), waiter()
        try:
            await self._waiter
        finally:
            self._waiter = None
