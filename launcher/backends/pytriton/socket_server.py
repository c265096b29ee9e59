"""The socket at which the engine's process meets the model inside Triton."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

from launcher.backends.pytriton.frames import Frame, FrameDecoder, pack
from launcher.backends.pytriton.request_handler import RequestError, RequestHandler
from launcher.backends.pytriton.tensors import Arrays


@contextmanager
def listening(handler: RequestHandler, path: Path) -> Iterator[None]:
    """Serve ``handler`` to each Triton that connects to the Unix socket at ``path``."""
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o600)
    serving = handler.loop.create_unix_server(partial(SocketServer, handler), sock=bound)
    server = asyncio.run_coroutine_threadsafe(serving, handler.loop).result()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the loop has closed
            handler.loop.call_soon_threadsafe(server.close)


class SocketServer(asyncio.Protocol):
    """A connection of Triton's model. Handles requests in order; coalesces writes per event-loop iteration."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._frames = FrameDecoder()
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._feeds: dict[int, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in self._streams.values():
            stream.cancel()
        for name in self._feeds.values():
            self._handler.end_feed(name)

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.decode(data):
            try:
                self._receive(frame)
            except RequestError as error:
                self._refuse(frame.id, error)

    def _receive(self, frame: Frame) -> None:
        if frame.final:
            self._cancel(frame.id)
            return
        given = json.loads(frame.text)
        feed = str(given.get("feed", ""))
        if frame.packed:
            self._handler.begin(feed, frame.id, frame.packed)
        elif feed:
            self._feeds[frame.id] = feed
            self._handler.open_feed(feed, frame.id, self._send)
        else:
            answers = self._handler.answer(frame.tensors, given)
            stream = asyncio.get_running_loop().create_task(self._stream(frame.id, answers))
            self._streams[frame.id] = stream
            stream.add_done_callback(partial(self._ended, frame.id))

    def _cancel(self, id: int) -> None:
        """End a request or a feed whose client has gone."""
        if id in self._streams:
            self._streams[id].cancel()
        if id in self._feeds:
            self._handler.end_feed(self._feeds.pop(id))

    async def _stream(self, id: int, answers: AsyncGenerator[Arrays, None]) -> None:
        """Send the responses; the one with ``finish`` is the last."""
        try:
            async with aclosing(answers):
                async for arrays in answers:
                    self._send(Frame(id, arrays, final="finish" in arrays))
        except RequestError as error:
            self._refuse(id, error)

    def _ended(self, id: int, stream: asyncio.Task[None]) -> None:
        del self._streams[id]
        if stream.cancelled():
            self._refuse(id, RequestError("the client went away"))

    def _refuse(self, id: int, error: RequestError) -> None:
        self._send(Frame(id, text=str(error), final=True))

    def _send(self, frame: Frame) -> None:
        if not self._transport.is_closing():
            self._transport.write(pack(frame))
