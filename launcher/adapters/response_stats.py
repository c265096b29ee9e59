"""Counts answers, their tokens and their times, by path and status."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.kept_counts import kept
from launcher.core.errors import UserError
from launcher.core.responses import token_count
from launcher.core.run_folder import RunFolder
from launcher.core.stream_end import error_of_event
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component
from launcher.stats.sketch import Sketch

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
TIMES = ("latency_s", "first_event_s", "between_events_s")
PERCENTILES = (50, 90, 99)
NO_ANSWER = "no answer"


@component("adapters/response_stats")
class ResponseStats(Adapter):
    """Writes ``response_stats.json`` in the run folder: for each path and HTTP status the answers, tokens and times.

    ``latency_s`` is the time until the whole answer. For streams, ``first_event_s`` is the time to the first token, and
    ``between_events_s`` that between tokens. Each has its mean, its maximum, and its 50th, 90th and 99th percentile,
    which are off by at most 1 %. ``buckets`` hold the counts from which files of several runs can be merged. ``no
    answer`` counts errors, also those that come behind a good status: in a stream, or in place of an answer. ``cached``
    counts the answers of a cache, which have no times. A resumed run adds to the file.

    Use it to compare the times of servers, and to merge those of several runs or workers.

    Example: ``python launch.py 'adapters=[response_stats,retry]'``
    """

    changes_answers: ClassVar[bool] = False
    observer: ClassVar[bool] = True
    needs_task = False
    reads = Part.answer | Part.events

    def __post_init__(self) -> None:
        self._stats: dict[tuple[str, str], _Stats] = {}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        start = time.perf_counter()
        try:
            response = await call_next(request)
        except Exception:
            self._of(request, NO_ANSWER).answers += 1
            raise
        has_error = response.ok and error_of_event(response.body) is not None
        stats = self._of(request, NO_ANSWER if has_error else str(response.status))
        if response.events is not None:
            if response.cached:
                return replace(response, events=_replayed(response.events, stats))
            lost = partial(self._of, request, NO_ANSWER)
            return replace(response, events=_timed(response.events, stats, lost, start))
        stats.count(response.body, cached=response.cached)
        if not response.cached:
            stats.times["latency_s"].add(time.perf_counter() - start)
        return response

    def files(self) -> dict[str, str]:
        return {RunFolder.counted("response_stats"): "adapters.response_stats"}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        file = RunFolder(folder).counts("response_stats")
        self._stats = _read(file)
        async with kept(file, self._summary, indent=1):
            yield

    def _summary(self) -> dict[str, dict[str, Json]]:
        found: dict[str, dict[str, Json]] = {}
        for (path, status), stats in sorted(self._stats.items()):
            found.setdefault(path, {})[status] = stats.summary()
        return found

    def _of(self, request: Request, status: str) -> _Stats:
        return self._stats.setdefault((request.route, status), _Stats())


@dataclass
class _Times:
    """Times in seconds."""

    sketch: Sketch = field(default_factory=Sketch)
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        self.sketch.add(seconds)
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def summary(self) -> Json:
        percentiles = {f"p{share}": _rounded(self.sketch.quantile(share / 100)) for share in PERCENTILES}
        buckets = {str(bucket): self.sketch.buckets[bucket] for bucket in sorted(self.sketch.buckets)}
        mean = self.total / self.sketch.count if self.sketch.count else None
        return {"mean": _rounded(mean), **percentiles, "max": self.longest, "total": self.total, "buckets": buckets}

    @classmethod
    def of(cls, found: Json) -> Self:
        buckets = {int(bucket): int(count) for bucket, count in found["buckets"].items()}
        return cls(Sketch(buckets), float(found["total"]), float(found["max"]))


@dataclass
class _Stats:
    """What the answers with one path and status have in common."""

    answers: int = 0
    cached: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    times: dict[str, _Times] = field(default_factory=lambda: {name: _Times() for name in TIMES})

    def count(self, body: Json, *, cached: bool = False) -> None:
        self.answers += 1
        self.cached += cached
        usage = body.get("usage") if isinstance(body, Mapping) else None
        for name in TOKENS:
            self.tokens[name] += token_count(usage, name) or 0

    def summary(self) -> Json:
        times = {name: times.summary() for name, times in self.times.items() if times.sketch.count}
        return {"answers": self.answers, "cached": self.cached, **{t: self.tokens[t] for t in TOKENS}, **times}

    @classmethod
    def of(cls, found: Json) -> Self:
        tokens = Counter({name: int(found[name]) for name in TOKENS})
        times = {name: _Times.of(found[name]) if name in found else _Times() for name in TIMES}
        return cls(int(found["answers"]), int(found["cached"]), tokens, times)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.4g}")


def _read(file: Path) -> dict[tuple[str, str], _Stats]:
    """Return the statistics of an earlier session. Raises `UserError` for a damaged file."""
    try:
        found = json.loads(file.read_bytes())
        return {(path, status): _Stats.of(one) for path, by in found.items() for status, one in by.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not the statistics of answers ({error}); remove it to count from zero") from None


async def _timed(
    events: AsyncIterator[Json], stats: _Stats, lost: Callable[[], _Stats], start: float
) -> AsyncIterator[Json]:
    before, name, last, failed = start, "first_event_s", None, False
    try:
        async with closing(events):
            async for event in events:
                now = time.perf_counter()
                if error_of_event(event) is not None:
                    failed = True
                else:
                    stats.times[name].add(now - before)
                before, name = now, "between_events_s"
                last = _with_usage(event, last)
                yield event
    except Exception:
        failed = True
        raise
    finally:
        if failed:
            lost().answers += 1
        else:
            stats.times["latency_s"].add(time.perf_counter() - start)
            stats.count(last)


async def _replayed(events: AsyncIterator[Json], stats: _Stats) -> AsyncIterator[Json]:
    """Count a stream of a cache, which has no times."""
    last: Json = None
    try:
        async with closing(events):
            async for event in events:
                last = _with_usage(event, last)
                yield event
    finally:
        stats.count(last, cached=True)


def _with_usage(event: Json, last: Json) -> Json:
    """Return an event that has ``usage``, or else the last one that had it."""
    return event if isinstance(event, Mapping) and event.get("usage") else last
