"""An `AsyncEngine` whose sequences share one continuously batched model."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from launcher.core.errors import EngineUnavailable, GrammarRefused
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, EngineState, GenerationRequest, TokenOutput
from launcher.engines.runtime.blocks import BlockPool
from launcher.engines.runtime.driver import Driver, SchedulerInterface
from launcher.engines.runtime.grammar import Grammars
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

    A broken engine is ``repairable`` if its owner replaces the executor: `release` the old one, then `resume`.
    """

    repairable = False
    grammars = True

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
        self._limits, self._vocab_size = limits, executor.vocab_size
        self._grammars = Grammars(tokenizer, executor.vocab_size)
        self._facts = dict(facts)
        self._measured = measured
        self._streams: dict[str, Stream] = {}
        self._before, self._swapping = EngineState(), threading.Lock()
        self._executor: Executor | None = executor
        self._driver: Driver | None = Driver(scheduler or self._scheduler(executor), executor, limits, self._deliver)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        if not request.prompt:
            raise ValueError("prompt: no tokens; must have at least one")
        if request.id in self._streams:
            raise ValueError(f"id={request.id}: a request with this id is running")
        stream = self._streams[request.id] = Stream(asyncio.get_running_loop())
        try:
            request = await self._constrained(request)
            self._running().submit(request)
            finished = False
            while not finished:
                event = _merge(await stream.get())
                if request.constraint is not None and request.constraint.error is not None:
                    raise GrammarRefused(request.constraint.error)
                finished = event.finish is not None
                yield event
        finally:
            if self._driver is not None:
                self._driver.cancel(request.id)
            del self._streams[request.id]

    def reference(self, tokens: Sequence[int]) -> list[float]:
        """Run in the driver's thread, between two steps: the model is not reentrant."""
        return self._call(lambda executor: executor.reference(tokens))

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        return self._call(lambda executor: executor.exact_reference(tokens))

    def state(self) -> EngineState:
        """Return the counters of all executors together."""
        with self._swapping:
            driver, before = self._driver, self._before
        if driver is None:
            return replace(before, restarting=self.repairable)
        now = driver.state()
        return replace(
            now,
            prompt_tokens=before.prompt_tokens + now.prompt_tokens,
            prompt_tokens_cached=before.prompt_tokens_cached + now.prompt_tokens_cached,
            generated_tokens=before.generated_tokens + now.generated_tokens,
            steps=before.steps + now.steps,
            restarting=self.repairable and now.error is not None,
        )

    def describe(self) -> dict[str, Json]:
        return {**self._facts, **self._measured()}

    def note(self, facts: Mapping[str, Json]) -> None:
        """Add facts to the result of `describe`."""
        self._facts = {**facts, **self._facts}

    def fail(self, error: str) -> None:
        """Fail every open request and refuse new ones with ``error``, which happened to the executor."""
        if self._driver is not None:
            self._driver.fail(error)

    def release(self) -> None:
        """Give up the executor of a broken engine, whose memory the next one needs."""
        assert self._driver is not None
        state = self.state()
        self._driver.close()
        with self._swapping:
            self._before = replace(state, running=0, queued=0, kv_tokens_used=0)
            self._driver = self._executor = None

    def resume(self, executor: Executor) -> None:
        """Generate again, with another executor of the same model."""
        self._executor = executor
        self._driver = Driver(self._scheduler(executor), executor, self._limits, self._deliver)

    def give_up(self, error: str) -> None:
        """Report from now on that the engine is broken for good."""
        self._before, self.repairable = replace(self._before, error=error), False

    def close(self) -> None:
        self.repairable = False
        if self._driver is not None:
            self._driver.close()

    def _scheduler(self, executor: Executor) -> Scheduler:
        pool, eos_ids = BlockPool(executor.num_blocks), self.tokenizer.eos_ids
        return Scheduler(self._limits, pool, executor.block_size, executor.vocab_size, eos_ids)

    async def _constrained(self, request: GenerationRequest) -> GenerationRequest:
        """Add what follows the grammar of a request, if it has one. Raises `GrammarRefused`."""
        grammar = request.sampling.grammar
        if grammar is None:
            return request
        return replace(request, constraint=await asyncio.to_thread(self._grammars.constraint, grammar))

    def _running(self) -> Driver:
        driver = self._driver
        if driver is None:
            raise EngineUnavailable(self._before.error)
        return driver

    def _call(self, function: Callable[[Executor], list[float]]) -> list[float]:
        driver, executor = self._driver, self._executor
        if driver is None or executor is None:
            raise EngineUnavailable(self._before.error)
        result = driver.call(lambda: function(executor)).result()
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
