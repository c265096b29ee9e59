"""The model as Triton's clients ask it."""

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

LOG = logging.getLogger("pytriton.served")
JOIN_S = 2.0
REMEMBERED = 1000
"""How many generations that were withdrawn before they came are remembered."""
Arrays = tensors.Arrays


class RequestError(Exception):
    """What a client of Triton is told, in one line."""


@contextmanager
def served_in_thread(admission: Admission | None = None) -> Iterator[RequestHandler]:
    """Yield a `RequestHandler` whose loop runs in a thread of its own.

    On leaving everything is cancelled; a thread that is stuck in the engine is left behind.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop,), name="triton-engine", daemon=True)
    thread.start()
    served = RequestHandler(loop, admission)
    try:
        yield served
    finally:
        served.reset("the server is stopping")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(JOIN_S)


class RequestHandler:
    """Runs generations for whoever asks through Triton, all of them in one loop.

    An `answer` streams the events of its own sequence. A batch of sequences leaves their events to a feed, which
    carries those of many. Any thread may call `know`, `withdraw`, `end_feed` and `reset`; all else belongs to the loop.
    Until ``admission`` is open only those that `know` was told of are served.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, admission: Admission | None = None) -> None:
        self.loop = loop
        self._admission = admission
        self._known: set[str] = set()
        self._runner: AsyncEngine | None = None
        self._jobs: dict[str, Job] = {}
        self._feeds: dict[str, ResponseStream] = {}
        self._withdrawn: dict[str, None] = {}

    @contextmanager
    def serving(self, runner: AsyncEngine) -> Iterator[None]:
        """Answer with ``runner`` from now on, and on leaving refuse again."""
        self._runner = runner
        try:
            yield
        finally:
            self.reset("the engine is stopping")
            self._runner = None

    async def answer(self, data: Mapping[str, Any], parameters: Mapping[str, Json]) -> AsyncGenerator[Arrays, None]:
        """Answer a request of the KServe protocol; the last answer has ``finish``. Raises `RequestError`."""
        with _refusing():
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
        self._admit(str(given.get("id") or ""))
        return self._generate(data, given)

    def open_feed(self, name: str, id: int, send: Callable[[Frame], None]) -> None:
        """Send the events of the batches that name this feed, as answers to the request ``id`` and to theirs.

        Raises `RequestError` while there is no valid certificate, for a feed that is none of our own API's.
        """
        self._admit(name)
        self._end_feed(name)
        self._feeds[name] = ResponseStream(id, send, lambda: len(self._jobs))

    def begin(self, feed: str, id: int, packed: bytes) -> None:
        """Start the generations of the batch ``id``; what they say, and why one is refused, is left to the feed.

        Raises `RequestError` for what is no batch.
        """
        if feed not in self._feeds:
            raise RequestError(f"feed={feed}: no such feed is open")
        with _refusing():
            batch = tensors.unpack_requests(packed)
        told = self._feeds[feed]
        told.owe(id)
        for name, prompt, given, final_only in batch:
            try:
                if name in self._withdrawn:
                    raise EngineUnavailable("the request was withdrawn")
                self._submit(*self._read(name, prompt, given, final_only), told)
            except (ValueError, EngineUnavailable) as error:
                told.put(Event(name, error))

    async def _generate(self, data: Mapping[str, Any], given: dict[str, Json]) -> AsyncGenerator[Arrays, None]:
        id = str(given.pop("id", None) or f"triton-{secrets.token_hex(8)}")
        runner, generation = self._read(id, tensors.prompt(data, self._loaded()), given)
        inbox = EventQueue()
        job = self._submit(runner, generation, inbox)
        decode = _decoder(runner) if "text" in data else None
        try:
            async for event in _tokens(inbox):
                yield tensors.answer(event) | ({"text": tensors.text(decode(event))} if decode else {})
        finally:
            job.end()

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

    def know(self, name: str) -> None:
        """Serve feeds and requests whose name begins with this secret one at once: they are the launcher's own.

        Those of our API are among them, which keeps out by itself who is not to be answered yet.
        """
        self._known.add(name)

    def _admit(self, name: str) -> None:
        admitted = self._admission is None or self._admission.is_open
        if not admitted and not name.startswith(tuple(self._known)):
            raise RequestError(f"EngineUnavailable: {REASON}")

    def withdraw(self, id: str) -> None:
        """End the generation ``id`` of a batch and free its slot; if it is still on its way, it never starts."""
        self._soon(self._withdraw, id)

    def end_feed(self, name: str) -> None:
        """End a feed that nobody reads any more."""
        self._soon(self._end_feed, name)

    def reset(self, reason: str) -> None:
        """End every generation and every feed, as when Triton is gone."""
        self._soon(self._reset, reason)

    def _soon(self, function: Callable[..., None], *arguments: str) -> None:
        with suppress(RuntimeError):  # the loop has closed: nothing runs in it
            self.loop.call_soon_threadsafe(function, *arguments)

    def _abort(self, id: str, reason: str) -> None:
        job = self._jobs.get(id)
        if job is not None:
            job.end(EngineUnavailable(reason))

    def _withdraw(self, id: str) -> None:
        self._abort(id, "the request was withdrawn")
        self._withdrawn[id] = None
        if len(self._withdrawn) > REMEMBERED:
            del self._withdrawn[next(iter(self._withdrawn))]

    def _end_feed(self, name: str) -> None:
        feed = self._feeds.pop(name, None)
        if feed is not None:
            feed.end()

    def _reset(self, reason: str) -> None:
        for id in list(self._jobs):
            self._abort(id, reason)
        for name in list(self._feeds):
            self._end_feed(name)

    def _submit(self, runner: AsyncEngine, generation: GenerationRequest, told: ResponseStream | EventQueue) -> Job:
        if generation.id in self._jobs:
            raise ValueError(f"id={generation.id}: a generation of this id is running already")
        task = self.loop.create_task(_pump(runner, generation, told))
        job = self._jobs[generation.id] = Job(generation.id, told, task)
        task.add_done_callback(lambda _: self._forget(job))
        return job

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]


@dataclass(frozen=True)
class Job:
    """A generation that runs, and who hears of it."""

    id: str
    told: ResponseStream | EventQueue
    task: asyncio.Task[None]

    def end(self, error: Exception | None = None) -> None:
        """Cancel it if it still runs; ``error`` is what its reader is told."""
        if self.task.cancel() and error is not None:
            self.told.put(Event(self.id, error))


async def _pump(runner: AsyncEngine, generation: GenerationRequest, told: ResponseStream | EventQueue) -> None:
    try:
        async with aclosing(cast("AsyncGenerator[TokenOutput, None]", runner.generate(generation))) as events:
            async for event in events:
                told.put(Event(generation.id, event))
    except Exception as error:
        told.put(Event(generation.id, error))


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what went wrong into what the client is told."""
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


async def _tokens(inbox: EventQueue) -> AsyncIterator[TokenOutput]:
    """Yield the events of the only sequence of an inbox, up to its last."""
    while True:
        for event in await inbox.get():
            if isinstance(event.what, Exception):
                raise event.what
            yield event.what
            if event.what.finish:
                return


def _decoder(runner: AsyncEngine) -> Callable[[TokenOutput], str]:
    """Return a function that turns the events of one sequence into its text, in whole characters."""
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
