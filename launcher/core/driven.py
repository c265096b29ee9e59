"""Runs a coroutine in the very calls that bring what it waits for; a task would wait for the event loop's next turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, cast

_current: Driven | None = None
"""The one that runs now."""


class Turn:
    """What a driven coroutine waits for: `set_result` runs it on, at once."""

    __slots__ = ("_done", "driven")

    def __init__(self) -> None:
        self.driven: Driven | None = None
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: None) -> None:
        self._done = True
        driven, self.driven = self.driven, None
        if driven is not None:
            driven.run_on()

    def __await__(self) -> Generator[Any, None, None]:
        waits = iter(() if self._done else (self,))
        return cast("Generator[Any, None, None]", waits)  # any iterator does, and one of a tuple costs least


def waiter() -> Turn | asyncio.Future[None]:
    """Return something to wait for: a future, or what costs less in a driven coroutine."""
    return asyncio.get_running_loop().create_future() if _current is None else Turn()


class Driven:
    """A coroutine that is run without a task, in a context of its own.

    It may wait for futures and tasks, and sleep. It has no current task: `asyncio.timeout`, `asyncio.TaskGroup` and
    `asyncio.wait_for` fail in it. ``on_pause`` is called each time that it waits, ``on_end`` once it has ended.
    """

    def __init__(
        self, coroutine: Coroutine[Any, None, None], on_pause: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._coroutine = coroutine
        self._on_pause = on_pause
        self._on_end = on_end
        self._run = copy_context().run
        self._waits_for: Turn | asyncio.Future[Any] | None = None
        self._ended = self._is_running = self._is_cancelled = False

    def start(self) -> None:
        """Run until the coroutine waits. If it ends at once, ``on_end`` is called in the event loop's next turn."""
        on_end = self._on_end
        self._on_end = lambda: None
        self.run_on()
        self._on_end = on_end
        if self._ended:
            asyncio.get_running_loop().call_soon(on_end)

    def cancel(self) -> None:
        """Raise `CancelledError` where the coroutine waits."""
        if self._ended:
            return
        self._is_cancelled = True
        if self._is_running:
            return  # raised as soon as it waits
        waits_for, self._waits_for = self._waits_for, None
        if isinstance(waits_for, Turn):
            waits_for.driven = None
        elif waits_for is not None:
            waits_for.remove_done_callback(self._woken)
            waits_for.cancel()
        self.run_on()

    def run_on(self) -> None:
        """Run until the coroutine waits again, or has ended."""
        global _current
        before, _current, self._is_running = _current, self, True
        try:
            yielded = self._run(self._resumed)
            while self._is_cancelled:
                yielded = self._run(self._resumed)
        except StopIteration:
            self._ended = True
        except (Exception, asyncio.CancelledError) as error:
            self._ended = True
            self._report(error)
        finally:
            _current, self._is_running = before, False
        if self._ended:
            self._on_end()
        else:
            self._wait_for(yielded)
            self._on_pause()

    def _resumed(self) -> Any:
        """Run the coroutine to its next wait; return what it waits for."""
        if not self._is_cancelled:
            return self._coroutine.send(None)
        self._is_cancelled = False
        return self._coroutine.throw(asyncio.CancelledError())

    def _wait_for(self, yielded: Any) -> None:
        if isinstance(yielded, Turn):
            yielded.driven = self
        else:
            yielded = _next_turn() if yielded is None else yielded
            yielded._asyncio_future_blocking = False
            yielded.add_done_callback(self._woken)
        self._waits_for = yielded

    def _woken(self, future: asyncio.Future[Any]) -> None:
        self._waits_for = None
        self.run_on()

    def _report(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            what = {"message": "a driven coroutine has failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(what)


def _next_turn() -> asyncio.Future[None]:
    """Return what `asyncio.sleep` of zero seconds waits for."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: None if future.done() else future.set_result(None))
    return future
