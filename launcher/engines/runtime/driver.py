"""The thread that schedules and executes steps while there are requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.engines.base import EngineState, GenerationRequest, TokenLogprob, TokenOutput
from launcher.engines.runtime.output_buffer import OutputBuffer
from launcher.engines.runtime.scheduler import SchedulerConfig, SchedulerOutput
from launcher.engines.runtime.step import Executor

log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[tuple[str, TokenOutput | Exception]]], None]
"""Receives outputs that became ready together, by request id.

The driver's thread calls it at most a few times per step.
"""


class ActiveRequest(Protocol):
    """A request that the scheduler has accepted."""

    @property
    def request(self) -> GenerationRequest: ...


class SchedulerInterface(Protocol):
    """Decides what each step computes: a `Scheduler`, or the tracker of an engine with a scheduler of its own."""

    @property
    def idle(self) -> bool: ...

    def add(self, request: GenerationRequest) -> ActiveRequest: ...

    def drop(self, request_id: str) -> None: ...

    def state(self) -> EngineState: ...

    def schedule(self) -> tuple[SchedulerOutput | None, Sequence[tuple[ActiveRequest, TokenOutput]]]: ...

    def postprocess(
        self, step: SchedulerOutput, results: Sequence[TokenLogprob]
    ) -> Sequence[tuple[ActiveRequest, TokenOutput]]: ...


class Driver:
    """Owns a scheduler and an executor; every call is safe from any thread.

    The thread sleeps while there is nothing to do. It accepts new requests, cancellations and calls between two steps.
    When a step raises, every request fails and the driver refuses new ones.
    """

    def __init__(
        self, scheduler: SchedulerInterface, executor: Executor, limits: SchedulerConfig, deliver: Deliver
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._limits = limits
        self._deliver = deliver
        self._wake = threading.Condition()
        self._arrived: dict[str, GenerationRequest] = {}
        self._cancelled: list[str] = []
        self._calls: list[tuple[Future[object], Callable[[], object]]] = []
        self._open: set[str] = set()
        self._output_buffer = OutputBuffer(self._send)
        self._error: str | None = None
        self._state = scheduler.state()
        self._thread = threading.Thread(target=self._run, name="engine-steps", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Queue a generation. Raises `QueueFull`, or `EngineUnavailable` when the driver is closed or broken."""
        with self._wake:
            self._check_available()
            waiting = len(self._open) - self._limits.max_sequences
            if waiting >= self._limits.max_queue:
                raise QueueFull(f"{waiting} requests are waiting; engine.max_queue={self._limits.max_queue}")
            self._arrived[request.id] = request
            self._open.add(request.id)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Stop a generation and free its cache blocks; does nothing if it has finished."""
        with self._wake:
            if request_id not in self._open:
                return
            self._open.discard(request_id)
            if self._arrived.pop(request_id, None) is None:
                self._cancelled.append(request_id)
                self._wake.notify()

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Call a function in the driver's thread, between two steps."""
        future: Future[object] = Future()
        with self._wake:
            self._check_available()
            self._calls.append((future, function))
            self._wake.notify()
        return future

    def state(self) -> EngineState:
        with self._wake:
            return replace(self._state, queued=self._state.queued + len(self._arrived), error=self._error)

    def fail(self, error: str) -> None:
        """Fail every open request and refuse new ones; the first error is kept."""
        with self._wake:
            if self._error is not None:
                return
            self._error = error
            failed, self._open = sorted(self._open), set()
            calls, self._calls = self._calls, []
            self._wake.notify()
        self._deliver([(request_id, EngineUnavailable(error)) for request_id in failed])
        for future, _ in calls:
            future.set_exception(EngineUnavailable(error))

    def close(self, timeout_s: float = 10.0) -> None:
        """Fail every open request and stop the thread after its current step."""
        self.fail("the engine is stopping")
        self._thread.join(timeout_s)

    def _check_available(self) -> None:
        if self._error is not None:
            raise EngineUnavailable(self._error)

    def _run(self) -> None:
        try:
            while self._accept_work():
                self._step()
        except EngineUnavailable as error:  # a rank was lost, which the message names
            self.fail(str(error))
        except Exception as error:
            log.exception("the engine stopped")
            self.fail(f"{type(error).__name__}: {error}")

    def _accept_work(self) -> bool:
        """Wait until there is something to compute, and pass new requests to the scheduler; False when closed."""
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work)
                if self._error is not None:
                    return False
                arrived, self._arrived = self._arrived, {}
                cancelled, self._cancelled = self._cancelled, []
                calls, self._calls = self._calls, []
                for request_id in cancelled:
                    self._scheduler.drop(request_id)
                    self._output_buffer.discard(request_id)
                for request in arrived.values():
                    self._scheduler.add(request)
                if arrived or cancelled:
                    self._state = self._scheduler.state()
            for future, function in calls:
                _resolve(future, function)
            if not self._scheduler.idle:
                return True

    def _has_work(self) -> bool:
        return bool(
            self._error is not None or self._arrived or self._cancelled or self._calls or not self._scheduler.idle
        )

    def _step(self) -> None:
        step, events = self._scheduler.schedule()
        if step is not None:
            if step.prefills:  # such a step takes long
                self._state = self._scheduler.state()
                self._output_buffer.flush(everything=True)
            results = self._executor.execute(step.plan, step.scores, step.draws)
            events = [*events, *self._scheduler.postprocess(step, results)]
        self._state = self._scheduler.state()
        add = self._output_buffer.add
        for active, tokens in events:
            request = active.request
            add(request.id, tokens, request.final_only)
        self._output_buffer.flush(everything=False)

    def _send(self, ready: Sequence[tuple[str, TokenOutput]]) -> None:
        """Deliver the outputs of requests that are still open."""
        with self._wake:
            wanted = [(request_id, tokens) for request_id, tokens in ready if request_id in self._open]
            self._open.difference_update(request_id for request_id, tokens in wanted if tokens.finish)
        if wanted:
            self._deliver(wanted)


def _resolve(future: Future[object], function: Callable[[], object]) -> None:
    """Complete a future with the function's result or exception; the exception does not stop the engine."""
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
