"""Starts the ranks of a model, and starts them again when one is lost."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from launcher.core.console import to_stderr
from launcher.core.errors import RankLost, UserError
from launcher.core.restart_budget import RestartBudget
from launcher.core.types import Json

if TYPE_CHECKING:
    from launcher.engines.megatron.executor import MegatronExecutor
    from launcher.engines.runtime.batching import BatchedAsyncEngine

log = logging.getLogger(__name__)

MAX_QUICK_LOSSES, STABLE_S = 3, 30.0
"""After so many losses in a row, each within so many seconds of a start, the ranks are not started again."""
POLL_INTERVAL_S = 0.25

OnDeath = Callable[[Future[str]], None]
Launch = Callable[[OnDeath, Future[None]], AbstractContextManager["MegatronExecutor"]]
"""Starts all ranks. It is given what to call when one is lost, and a future whose end interrupts the start."""


class Supervisor:
    """Owns the ranks of a model, of which one set lives at a time, in a thread of its own once `keeping` has begun.

    ``check`` raises `RankLost` where a rank cannot start again.
    """

    def __init__(self, launch: Launch, check: Callable[[], object]) -> None:
        self._launch, self._check = launch, check
        self._ranks = ExitStack()
        self._stopping: Future[None] = Future()
        self._stop = threading.Event()
        self._engine: BatchedAsyncEngine | None = None
        self._executor: MegatronExecutor | None = None
        self._measured: Mapping[str, Json] = {}
        self._ready_at = 0.0

    def start(self) -> MegatronExecutor:
        """Start all ranks. Raises `ServerError`."""
        self._executor = executor = self._ranks.enter_context(self._launch(self._on_death, self._stopping))
        self._ready_at = time.monotonic()
        return executor

    def close(self) -> None:
        """End all ranks."""
        self._executor = None
        self._ranks.close()

    def measured(self) -> Mapping[str, Json]:
        """Return facts that were measured while running."""
        if (executor := self._executor) is not None:
            self._measured = executor.describe()
        return self._measured

    @contextmanager
    def keeping(self, engine: BatchedAsyncEngine) -> Iterator[None]:
        """Repair an engine whose executor came from `start`."""
        self._engine, engine.repairable = engine, True
        thread = threading.Thread(target=self._run, args=(engine,), name="engine-supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._stopping.set_result(None)
            thread.join()

    def _on_death(self, reason: Future[str]) -> None:
        if self._engine is not None:
            self._engine.fail(reason.result())

    def _run(self, engine: BatchedAsyncEngine) -> None:
        budget = RestartBudget(MAX_QUICK_LOSSES, STABLE_S)
        while not self._stop.wait(POLL_INTERVAL_S):
            if (reason := engine.state().error) is not None:
                budget.record_failure(time.monotonic() - self._ready_at)
                if not self._repair(engine, reason, budget):
                    return

    def _repair(self, engine: BatchedAsyncEngine, reason: str, budget: RestartBudget) -> bool:
        """Start the ranks again, as long as the budget lasts; return whether the engine works again."""
        lost_at = time.monotonic()
        engine.release()
        while not budget.exhausted and not self._stop.is_set():
            try:
                self._check()
                self._say(f"{reason}; all ranks start again (restart {budget.failures} of {budget.limit - 1} in a row)")
                self._restart(engine)
            except RankLost as error:  # no node to start it on
                engine.give_up(f"{reason}; {error}")
                return False
            except Exception as error:
                budget.record_failure()
                reason = self._described(error)
            else:
                self._say(f"all ranks work again after {time.monotonic() - lost_at:.1f} s")
                return True
        engine.give_up(f"{reason}; the ranks were lost {budget.limit} times in a row")
        return False

    def _restart(self, engine: BatchedAsyncEngine) -> None:
        """Replace the ranks. Raises the error that prevents their start."""
        self.close()
        gc.collect()  # the next model needs the memory of this one
        engine.resume(self.start())

    def _described(self, error: Exception) -> str:
        if isinstance(error, UserError):
            return str(error)
        log.exception("the ranks did not start again")
        return f"{type(error).__name__}: {error}"

    def _say(self, text: str) -> None:
        if not self._stop.is_set():
            to_stderr(f"serve: {text}")
