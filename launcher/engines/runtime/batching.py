"""An `AsyncEngine` whose sequences share one continuously batched model."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, EngineState, GenerationRequest, TokenOutput
from launcher.engines.runtime.blocks import BlockPool
from launcher.engines.runtime.driver import Driver, SchedulerInterface
from launcher.engines.runtime.output_buffer import join
from launcher.engines.runtime.scheduler import Scheduler, SchedulerConfig
from launcher.engines.runtime.step import Executor


class Stream:
    """The events of one generation, passed from the driver's thread to an asyncio loop."""

    __slots__ = ("_events", "_waiter", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: list[TokenOutput | Exception] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: TokenOutput | Exception) -> None:
        """Add an event; called in the stream's loop."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> list[TokenOutput | Exception]:
        """Wait for events, and return all that are there."""
        if not self._events:
            self._waiter = self.loop.create_future()
            await self._waiter
            self._waiter = None
        events, self._events = self._events, []
        return events


class BatchedAsyncEngine(AsyncEngine):
    """Runs an `Executor` with continuous batching.

    `describe` returns ``facts`` and the current result of ``measured``. ``scheduler`` is a `Scheduler` unless the
    executor is an engine that schedules by itself. The owner must call `close`.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        executor: Executor,
        limits: SchedulerConfig,
        facts: Mapping[str, Json],
        measured: Callable[[], Mapping[str, Json]] = dict,
        scheduler: SchedulerInterface | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context_length = limits.context_length
        self.capacity = limits.max_sequences + limits.max_queue
        self._executor = executor
        self._facts = dict(facts)
        self._measured = measured
        self._streams: dict[str, Stream] = {}
        if scheduler is None:
            pool = BlockPool(executor.num_blocks)
            scheduler = Scheduler(limits, pool, executor.block_size, executor.vocab_size, tokenizer.eos_ids)
        self._driver = Driver(scheduler, executor, limits, self._deliver)

    @property
    def vocab_size(self) -> int:
        return self._executor.vocab_size

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        if not request.prompt:
            raise ValueError("prompt: no tokens; must have at least one")
        if request.id in self._streams:
            raise ValueError(f"id={request.id}: a request with this id is running")
        stream = self._streams[request.id] = Stream(asyncio.get_running_loop())
        try:
            self._driver.submit(request)
            finished = False
            while not finished:
                event = _merge(await stream.get())
                finished = event.finish is not None
                yield event
        finally:
            self._driver.cancel(request.id)
            del self._streams[request.id]

    def reference(self, tokens: Sequence[int]) -> list[float]:
        """Run in the driver's thread, between two steps: the model is not reentrant."""
        return self._call(lambda: self._executor.reference(tokens))

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        return self._call(lambda: self._executor.exact_reference(tokens))

    def state(self) -> EngineState:
        return self._driver.state()

    def describe(self) -> dict[str, Json]:
        return {**self._facts, **self._measured()}

    def note(self, facts: Mapping[str, Json]) -> None:
        """Add facts to the result of `describe`."""
        self._facts = {**facts, **self._facts}

    def fail(self, error: str) -> None:
        """Fail every open request and refuse new ones with ``error``, which happened to the executor."""
        self._driver.fail(error)

    def close(self) -> None:
        self._driver.close()

    def _call(self, function: Callable[[], list[float]]) -> list[float]:
        result = self._driver.call(function).result()
        assert isinstance(result, list)
        return result

    def _deliver(self, ready: Sequence[tuple[str, TokenOutput | Exception]]) -> None:
        """Deliver outputs that became ready together with one call per loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, TokenOutput | Exception]]] = defaultdict(list)
        for request_id, event in ready:
            stream = self._streams.get(request_id)
            if stream is not None:
                by_loop[stream.loop].append((stream, event))
        for loop, events in by_loop.items():
            with suppress(RuntimeError):  # the loop has closed, and its readers with it
                loop.call_soon_threadsafe(_put, events)


def _put(events: Sequence[tuple[Stream, TokenOutput | Exception]]) -> None:
    for stream, event in events:
        stream.put(event)


def _merge(events: Sequence[TokenOutput | Exception]) -> TokenOutput:
    """Join the events that a slow reader has not read yet; raise an exception among them."""
    if len(events) == 1 and isinstance(events[0], TokenOutput):
        return events[0]
    for event in events:
        if isinstance(event, Exception):
            raise event
    return join([event for event in events if isinstance(event, TokenOutput)])
