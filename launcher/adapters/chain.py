"""The chain of adapters: an onion around a `Handler`, first in the list outermost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.adapters.base import Adapter, Downstream
from launcher.adapters.failures import Failures, recording
from launcher.adapters.forgetting import forgetting
from launcher.adapters.observing import observing
from launcher.core.types import Handler, Json


def pipeline(adapters: Iterable[Adapter], innermost: Handler, failures: Failures | None = None) -> Handler:
    """Wrap ``innermost`` in the adapters; the first is the outermost. ``failures`` counts those of observers."""
    handler, counted = innermost, Failures() if failures is None else failures
    chain = list(adapters)
    for adapter in reversed(chain):
        handler = _bind(adapter, handler, counted)
    return forgetting(handler) if any(adapter.keeps_answers for adapter in chain) else handler


def _bind(adapter: Adapter, call_next: Handler, failures: Failures) -> Handler:
    if adapter.observer:
        return observing(adapter, call_next, failures)

    return lambda request: adapter(request, call_next)


@asynccontextmanager
async def all_running(
    adapters: Sequence[Adapter], folder: Path, deployment: Mapping[str, Json] | None
) -> AsyncIterator[Failures]:
    """Enter `Adapter.running` of each, in order, and leave them in reverse; yield what counts their failures.

    The counts are in ``adapter_failures.json`` of the run folder then, if there are any.
    """
    async with recording(folder) as failures, AsyncExitStack() as stack:
        for place, adapter in enumerate(adapters, 1):
            downstream = Downstream(deployment, _identity(adapters[place:]))
            await stack.enter_async_context(_running(adapter, folder, downstream, failures))
        yield failures


def _identity(adapters: Sequence[Adapter]) -> list[Json]:
    """Return the adapters that can change an answer, with their settings."""
    return [{f"{type(a).__module__}.{type(a).__name__}": asdict(a)} for a in adapters if a.changes_answers]


@asynccontextmanager
async def _running(adapter: Adapter, folder: Path, downstream: Downstream, failures: Failures) -> AsyncIterator[None]:
    """Hold an adapter's resources; what goes wrong when an observer lets go of them is counted."""
    held = adapter.running(folder, downstream)
    if not adapter.observer:
        async with held:
            yield
        return

    async def leave(*raised: Any) -> None:
        try:
            await held.__aexit__(*raised)
        except Exception as error:
            failures.add(adapter, error)

    async with AsyncExitStack() as stack:
        await held.__aenter__()
        stack.push_async_exit(leave)
        yield
