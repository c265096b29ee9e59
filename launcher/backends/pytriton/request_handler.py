"""Runs the requests that reach the engine's process through Triton."""

from __future__ import annotations

import asyncio
import codecs
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import uvloop

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.event_queue import Event, EventQueue
from launcher.backends.pytriton.frames import Frame
from launcher.backends.pytriton.response_stream import ResponseStream
from launcher.core.admission import REASON, Admission
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, GenerationRequest, TokenOutput

LOG = logging.getLogger("pytriton.request_handler")
JOIN_TIMEOUT_S = 2.0
MAX_WITHDRAWN = 1000
"""How many ids of withdrawn generations are kept, in case their request arrives later."""
Arrays = tensors.Arrays


class RequestError(Exception):
    """An error for a client of Triton, in one line."""


@contextmanager
def handler_in_thread(admission: Admission | None = None) -> Iterator[RequestHandler]:
    """Yield a `RequestHandler` whose event loop runs in a thread of its own.

    On exit all requests are cancelled; a thread that hangs in the engine is left behind.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop,), name="triton-engine", daemon=True)
    thread.start()
    handler = RequestHandler(loop, admission)
    try:
        yield handler
    finally:
        handler.reset("the server is stopping")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(JOIN_TIMEOUT_S)


class RequestHandler:
    """Runs the generations of all clients of Triton in one event loop.

    `answer` streams the events of one sequence. The events of a batch of sequences go to a feed, which carries those of
    many batches. Any thread may call `trust`, `withdraw`, `end_feed` and `reset`; all else runs in the loop. Until
    ``admission`` is open, only requests that `trust` has named are served.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, admission: Admission | None = None) -> None:
        self.loop = loop
        self._admission = admission
        self._trusted: set[str] = set()
        self._runner: AsyncEngine | None = None
        self._running: dict[str, RunningGeneration] = {}
        self._feeds: dict[str, ResponseStream] = {}
        self._withdrawn: dict[str, None] = {}

    @contextmanager
    def serving(self, runner: AsyncEngine) -> Iterator[None]:
        """Serve ``runner``; before and after, all requests are refused."""
        self._runner = runner
        try:
            yield
        finally:
            self.reset("the engine is stopping")
            self._runner = None

    async def answer(self, data: Mapping[str, Any], parameters: Mapping[str, Json]) -> AsyncGenerator[Arrays, None]:
        """Answer a request of the KServe protocol; the last answer has ``finish``. Raises `RequestError`."""
        with _as_request_error():
            given = tensors.given(parameters, data)
            async with aclosing(self._choose(data, given)) as arrays:
                async for each in arrays:
                    yield each

    def _choose(self, data: Mapping[str, Any], given: dict[str, Json]) -> AsyncGenerator[Arrays, None]:
        if given.pop("ping", False):
            return _done("pong")
        if "abort" in given:
            self._abort(str(given["abort"]), "the request was aborted")
            return _done("aborted")
        self._check_admitted(str(given.get("id") or ""))
        return self._generate(data, given)

    def open_feed(self, name: str, id: int, send: Callable[[Frame], None]) -> None:
        """Send the events of this feed's batches, as responses to the request ``id`` and to the batches.

        Without a valid certificate, raises `RequestError` for a feed that the launcher has not opened itself.
        """
        self._check_admitted(name)
        self._end_feed(name)
        self._feeds[name] = ResponseStream(id, send, lambda: len(self._running))

    def begin(self, feed: str, id: int, packed: bytes) -> None:
        """Start the generations of the batch ``id``; their events and errors go to the feed.

        Raises `RequestError` for a malformed batch.
        """
        if feed not in self._feeds:
            raise RequestError(f"feed={feed}: this feed is not open")
        with _as_request_error():
            batch = tensors.unpack_requests(packed)
        sink = self._feeds[feed]
        sink.add_batch(id)
        for name, prompt, given, final_only in batch:
            try:
                if name in self._withdrawn:
                    raise EngineUnavailable("the request was withdrawn")
                self._submit(*self._read(name, prompt, given, final_only), sink)
            except (ValueError, EngineUnavailable) as error:
                sink.put(Event(name, error))

    async def _generate(self, data: Mapping[str, Any], given: dict[str, Json]) -> AsyncGenerator[Arrays, None]:
        id = str(given.pop("id", None) or f"triton-{secrets.token_hex(8)}")
        runner, generation = self._read(id, tensors.prompt(data, self._loaded()), given)
        events = EventQueue()
        generation_ = self._submit(runner, generation, events)
        decode = _decoder(runner) if "text" in data else None
        try:
            async for event in _tokens(events):
                yield tensors.answer(event) | ({"text": tensors.text(decode(event))} if decode else {})
        finally:
            generation_.end()

    def _read(
        self, id: str, prompt: tuple[int, ...], given: Mapping[str, Json], final_only: bool = False
    ) -> tuple[AsyncEngine, GenerationRequest]:
        runner, sampling = self._loaded(), tensors.sampling(given)
        tensors.check(prompt, sampling, runner)
        return runner, GenerationRequest(id, prompt, sampling, final_only)

    def _loaded(self) -> AsyncEngine:
        if self._runner is None:
            raise EngineUnavailable("no engine is loaded")
        return self._runner

    def trust(self, name: str) -> None:
        """Serve feeds and requests whose name begins with this secret name at once: they are the launcher's own.

        The feed of the OpenAI API is one of them; that API itself checks the admission of its clients.
        """
        self._trusted.add(name)

    def _check_admitted(self, name: str) -> None:
        admitted = self._admission is None or self._admission.is_open
        if not admitted and not name.startswith(tuple(self._trusted)):
            raise RequestError(f"EngineUnavailable: {REASON}")

    def withdraw(self, id: str) -> None:
        """End the generation ``id`` of a batch and free its slot; if its request arrives later, it never starts."""
        self._call_in_loop(self._withdraw, id)

    def end_feed(self, name: str) -> None:
        """End a feed without a reader."""
        self._call_in_loop(self._end_feed, name)

    def reset(self, reason: str) -> None:
        """End all generations and feeds, as after the death of Triton."""
        self._call_in_loop(self._reset, reason)

    def _call_in_loop(self, function: Callable[..., None], *arguments: str) -> None:
        with suppress(RuntimeError):  # the loop has closed, so nothing runs in it
            self.loop.call_soon_threadsafe(function, *arguments)

    def _abort(self, id: str, reason: str) -> None:
        generation_ = self._running.get(id)
        if generation_ is not None:
            generation_.end(EngineUnavailable(reason))

    def _withdraw(self, id: str) -> None:
        self._abort(id, "the request was withdrawn")
        self._withdrawn[id] = None
        if len(self._withdrawn) > MAX_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]

    def _end_feed(self, name: str) -> None:
        feed = self._feeds.pop(name, None)
        if feed is not None:
            feed.end()

    def _reset(self, reason: str) -> None:
        for id in list(self._running):
            self._abort(id, reason)
        for name in list(self._feeds):
            self._end_feed(name)

    def _submit(
        self, runner: AsyncEngine, generation: GenerationRequest, sink: ResponseStream | EventQueue
    ) -> RunningGeneration:
        if generation.id in self._running:
            raise ValueError(f"id={generation.id}: a generation of this id is running already")
        task = self.loop.create_task(_pump(runner, generation, sink))
        generation_ = self._running[generation.id] = RunningGeneration(generation.id, sink, task)
        task.add_done_callback(lambda _: self._forget(generation_))
        return generation_

    def _forget(self, generation_: RunningGeneration) -> None:
        if self._running.get(generation_.id) is generation_:
            del self._running[generation_.id]


@dataclass(frozen=True)
class RunningGeneration:
    """A generation that runs, and the sink of its events."""

    id: str
    sink: ResponseStream | EventQueue
    task: asyncio.Task[None]

    def end(self, error: Exception | None = None) -> None:
        """Cancel the generation if it still runs; its reader gets ``error``."""
        if self.task.cancel() and error is not None:
            self.sink.put(Event(self.id, error))


async def _pump(runner: AsyncEngine, generation: GenerationRequest, sink: ResponseStream | EventQueue) -> None:
    try:
        async with aclosing(cast("AsyncGenerator[TokenOutput, None]", runner.generate(generation))) as events:
            async for event in events:
                sink.put(Event(generation.id, event))
    except Exception as error:
        sink.put(Event(generation.id, error))


@contextmanager
def _as_request_error() -> Iterator[None]:
    """Raise a `RequestError` for any error of a request."""
    try:
        yield
    except ValueError as error:
        raise RequestError(str(error)) from None
    except (EngineUnavailable, QueueFull) as error:
        raise RequestError(f"{type(error).__name__}: {error}") from None
    except Exception as error:
        LOG.exception("a request failed")
        raise RequestError(f"{type(error).__name__}: {error}") from None


async def _done(word: str) -> AsyncGenerator[Arrays, None]:
    yield {"finish": tensors.text(word)}


async def _tokens(events: EventQueue) -> AsyncIterator[TokenOutput]:
    """Yield the events of the only sequence of a queue, up to the last one."""
    while True:
        for event in await events.get():
            if isinstance(event.what, Exception):
                raise event.what
            yield event.what
            if event.what.finish:
                return


def _decoder(runner: AsyncEngine) -> Callable[[TokenOutput], str]:
    """Return a function that decodes the events of one sequence to text, in complete characters."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def text(event: TokenOutput) -> str:
        pieces = [runner.tokenizer.token_bytes(token.token) for token in event.tokens]
        return decode(b"".join(pieces), event.finish is not None)

    return text


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
    finally:
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
