"""The model as Triton calls it."""

from __future__ import annotations

import asyncio
import codecs
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from typing import Any, cast

import uvloop

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.inbox import Event, Inbox
from launcher.core import Json
from launcher.engines.base import Generation, Runner, Tokens
from launcher.engines.outbox import join
from launcher.errors import EngineUnavailable, QueueFull

LOG = logging.getLogger("pytriton.served")
JOIN_S = 2.0
PACE_S = 0.0003
STREAM_S = 0.001
LONGEST_S = 0.02
"""How long the feed rests after a message: per sequence that runs, more for those that have just told a part of their
tokens. What comes in the meantime travels together; each message costs the engine's process about a millisecond."""
Arrays = tensors.Arrays


class Refusal(Exception):
    """What a client of Triton is told, in one line: PyTriton sends the traceback that an exception has, and its name.

    ``__traceback__`` hides the traceback from it; where the name comes from is set below.
    """

    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        return None


Refusal.__module__, Refusal.__qualname__ = "builtins", "launcher"


class Served:
    """Runs generations for whoever asks through Triton, all of them in one loop, in a thread of its own.

    Triton calls `answer` in loops that come and go with each Triton. An `answer` either streams the events of its own
    sequence, or starts a batch of sequences and leaves their events to a feed: a request that never ends, and that
    carries the events of many sequences, as many at a time as are ready together.
    """

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._runner: Runner | None = None
        self._jobs: dict[str, Job] = {}
        self._feeds: dict[str, Inbox] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the loop. On leaving everything is cancelled; a thread that is stuck in the engine is left behind."""
        thread = threading.Thread(target=self._run, name="triton-engine", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.reset("the server is stopping")
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(JOIN_S)

    @contextmanager
    def serving(self, runner: Runner) -> Iterator[None]:
        """Answer with ``runner`` from now on, and on leaving refuse again."""
        self._runner = runner
        try:
            yield
        finally:
            self.reset("the engine is stopping")
            self._runner = None

    async def answer(self, requests: Sequence[Any]) -> AsyncIterator[list[Arrays]]:
        """Answer one request of PyTriton; what is refused is raised, and Triton passes it on."""
        (request,) = requests
        try:
            given = tensors.given(request.parameters or {}, request.data)
            async with aclosing(self._choose(request.data, given)) as arrays:
                async for each in arrays:
                    yield [each]
        except ValueError as error:
            raise Refusal(str(error)) from None
        except (EngineUnavailable, QueueFull) as error:
            raise Refusal(f"{type(error).__name__}: {error}") from None
        except Exception as error:
            LOG.exception("a request failed")
            raise Refusal(f"{type(error).__name__}: {error}") from None

    def _choose(self, data: Mapping[str, Any], given: dict[str, Json]) -> AsyncGenerator[Arrays, None]:
        if given.pop("ping", False):
            return self._pong()
        if "abort" in given:
            return self._aborted(str(given["abort"]))
        feed = given.pop("feed", None)
        if feed is not None:
            return self._batch(data["batch"], str(feed)) if data else self._feed(str(feed))
        return self._generate(data, given)

    async def _pong(self) -> AsyncGenerator[Arrays, None]:
        """Answer once the engine's loop has answered."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop))
        yield {"finish": tensors.text("pong")}

    async def _aborted(self, id: str) -> AsyncGenerator[Arrays, None]:
        self.abort(id)
        yield {"finish": tensors.text("aborted")}

    async def _feed(self, name: str) -> AsyncGenerator[Arrays, None]:
        inbox = self._feeds[name] = Inbox()
        while name in self._feeds:
            events = await inbox.get()
            yield {"feed": tensors.pack(events)}
            going_on = sum(isinstance(event.what, Tokens) and not event.what.finish for event in events)
            if len(self._jobs) > 1:
                await asyncio.sleep(min(PACE_S * len(self._jobs) + STREAM_S * going_on, LONGEST_S))

    async def _batch(self, batch: Any, feed: str) -> AsyncGenerator[Arrays, None]:
        """Start the generations of a batch; what they say, and what is refused, is left to the feed."""
        inbox = self._feeds[feed]
        for id, prompt, given, whole in tensors.unpack_requests(batch):
            try:
                self._submit(*self._read(id, prompt, given, whole), inbox)
            except Exception as error:
                inbox.put(Event(id, error))
        return
        yield

    async def _generate(self, data: Mapping[str, Any], given: dict[str, Json]) -> AsyncGenerator[Arrays, None]:
        id = str(given.pop("id", None) or f"triton-{secrets.token_hex(8)}")
        runner, generation = self._read(id, tensors.prompt(data, self._loaded()), given)
        inbox = Inbox()
        job = self._submit(runner, generation, inbox)
        decode = _decoder(runner) if "text" in data else None
        try:
            async for event in _tokens(inbox):
                yield tensors.answer(event) | ({"text": tensors.text(decode(event))} if decode else {})
        finally:
            job.end()

    def _read(
        self, id: str, prompt: tuple[int, ...], given: Mapping[str, Json], whole: bool = False
    ) -> tuple[Runner, Generation]:
        runner, sampling = self._loaded(), tensors.sampling(given)
        tensors.check(prompt, sampling, runner)
        return runner, Generation(id, prompt, sampling, whole)

    def _loaded(self) -> Runner:
        if self._runner is None:
            raise EngineUnavailable("no engine is loaded")
        return self._runner

    def abort(self, id: str, reason: str = "the request was aborted") -> None:
        """End the generation ``id``, if it runs, and free its slot. Callable from any thread."""
        job = self._jobs.get(id)
        if job is not None:
            job.end(EngineUnavailable(reason))

    def end_feed(self, name: str) -> None:
        """End a feed that nobody reads any more."""
        inbox = self._feeds.pop(name, None)
        if inbox is not None:
            inbox.put(Event("", EngineUnavailable("the feed ends")))

    def reset(self, reason: str) -> None:
        """End every generation and every feed, as when Triton is gone. Callable from any thread."""
        for job in list(self._jobs.values()):
            job.end(EngineUnavailable(reason))
        for name in list(self._feeds):
            self.end_feed(name)

    def _submit(self, runner: Runner, generation: Generation, inbox: Inbox) -> Job:
        if generation.id in self._jobs:
            raise ValueError(f"id={generation.id}: a generation of this id is running already")
        job = self._jobs[generation.id] = Job(generation.id, inbox)
        job.future = asyncio.run_coroutine_threadsafe(self._pump(runner, generation, job), self._loop)
        job.future.add_done_callback(lambda _: self._forget(job))
        return job

    async def _pump(self, runner: Runner, generation: Generation, job: Job) -> None:
        begun = False
        try:
            async with aclosing(cast("AsyncGenerator[Tokens, None]", runner.generate(generation))) as events:
                held: list[Tokens] = []
                async for event in events:
                    held.append(event)
                    if begun and generation.whole and not event.finish:
                        continue
                    job.inbox.put(Event(generation.id, join(held)))
                    held, begun = [], True
        except Exception as error:
            job.inbox.put(Event(generation.id, error))

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_all())
        finally:
            self._loop.close()


class Job:
    """A generation that runs, and who hears of it."""

    def __init__(self, id: str, inbox: Inbox) -> None:
        self.id = id
        self.inbox = inbox
        self.future: Future[None] = Future()

    def end(self, error: Exception | None = None) -> None:
        """Cancel it if it still runs; ``error`` is what its reader is told."""
        if self.future.cancel() and error is not None:
            self.inbox.put(Event(self.id, error))


async def _tokens(inbox: Inbox) -> AsyncIterator[Tokens]:
    """Yield the events of the only sequence of an inbox, up to its last."""
    while True:
        for event in await inbox.get():
            if isinstance(event.what, Exception):
                raise event.what
            yield event.what
            if event.what.finish:
                return


def _decoder(runner: Runner) -> Callable[[Tokens], str]:
    """Return a function that turns the events of one sequence into its text, in whole characters."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def text(event: Tokens) -> str:
        pieces = [runner.tokenizer.token_bytes(token.token) for token in event.tokens]
        return decode(b"".join(pieces), event.finish is not None)

    return text


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
