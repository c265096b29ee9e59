"""The adapter interface: an onion around a `Handler`, first in the list outermost."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from launcher.core.errors import UserError
from launcher.core.files import replace_json
from launcher.core.types import Handler, Json, Request, Response


@dataclass(frozen=True)
class Downstream:
    """What is downstream of an adapter and answers its requests.

    ``deployment`` is what of it can change an answer, the checkpoint by its content; None where that is not known.
    ``adapters`` are those behind the adapter that can change an answer, with their settings.
    """

    deployment: Mapping[str, Json] | None
    adapters: Sequence[Json] = ()


@dataclass
class Adapter(ABC):
    """One interceptor. It fails closed: what it cannot do correctly is an error, never an unmodified request."""

    changes_answers: ClassVar[bool] = True
    """Whether its settings can change an answer; a run may be resumed with other settings only where they cannot."""

    @abstractmethod
    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Answer ``request``, usually by calling ``call_next`` with it or with a changed copy."""

    def variables(self) -> dict[str, str]:
        """Return the environment variables whose secrets it needs, each by the key that names it."""
        return {}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        """Hold resources for the time of the run, for instance an open file in the run ``folder``."""
        yield


def pipeline(adapters: Iterable[Adapter], innermost: Handler) -> Handler:
    """Wrap ``innermost`` in the adapters; the first is the outermost."""
    handler = innermost
    for adapter in reversed(list(adapters)):
        handler = _bind(adapter, handler)
    return handler


def _bind(adapter: Adapter, call_next: Handler) -> Handler:
    async def handle(request: Request) -> Response:
        return await adapter(request, call_next)

    return handle


@asynccontextmanager
async def all_running(
    adapters: Sequence[Adapter], folder: Path, deployment: Mapping[str, Json] | None
) -> AsyncIterator[None]:
    """Enter `Adapter.running` of each, in order, and leave them in reverse."""
    async with AsyncExitStack() as stack:
        for place, adapter in enumerate(adapters, 1):
            changing = [a for a in adapters[place:] if a.changes_answers]
            downstream = Downstream(
                deployment, [{f"{type(a).__module__}.{type(a).__name__}": asdict(a)} for a in changing]
            )
            await stack.enter_async_context(adapter.running(folder, downstream))
        yield


@contextmanager
def counting(path: Path, counts: Mapping[str, int], names: Sequence[str]) -> Iterator[None]:
    """Write the ``counts`` of ``names`` at the end, added to what an earlier session of the run left in the file."""
    before = _counts(path)
    try:
        yield
    finally:
        total = {name: before.get(name, 0) + counts.get(name, 0) for name in names}
        replace_json(path, total, indent=2)


def _counts(path: Path) -> Mapping[str, int]:
    """Return the counts of an earlier session. Raises `UserError` for a damaged file."""
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(count) for name, count in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not the counts of an adapter ({error}); remove it to count from zero") from None


@asynccontextmanager
async def closing(events: AsyncIterator[Json]) -> AsyncIterator[AsyncIterator[Json]]:
    """Close a stream that an adapter wraps when its own reader leaves early, so that the server learns of it."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
