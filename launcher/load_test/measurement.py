"""What a load test measures of one request, and of a level of requests in flight."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from launcher.stats.quantiles import quantile


@dataclass(frozen=True)
class Measurement:
    """One request: ``sent``, ``ended`` and ``events`` are times in seconds; each event is a piece of the answer.

    An answer may be empty, where the first token ends it. ``tokens`` and ``prompt_tokens`` are those of the server's
    usage; without it, an event counts as one token. ``cached_tokens`` are those of the prompt that it had in a cache,
    as it says; None where it does not. ``error`` says why there is no whole answer; None where there is one. An answer
    that the end of the test has ``cut`` has no error either: it counts with the tokens that came.
    """

    sent: float
    ended: float = 0.0
    events: Sequence[float] = ()
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    error: str | None = None
    cut: bool = False

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end."""
        return self.error is None and not self.cut

    @property
    def ttft_s(self) -> float | None:
        """The seconds to the first token."""
        return self.events[0] - self.sent if self.events else None

    @property
    def tpot_s(self) -> float | None:
        """The seconds per token after the first."""
        return (self.events[-1] - self.events[0]) / (self.tokens - 1) if self.tokens > 1 and self.events else None

    @property
    def latency_s(self) -> float | None:
        """The seconds to the end of the answer."""
        return self.ended - self.sent if self.whole else None

    def tokens_between(self, start: float, end: float) -> float:
        """Return the tokens that came within a time; an event holds an equal share of them."""
        inside = sum(start <= moment < end for moment in self.events)
        return self.tokens * inside / len(self.events) if self.events and self.error is None else 0.0


@dataclass(frozen=True)
class Window:
    """The requests that were sent from ``start`` to ``end``, times in seconds: those of each place in flight."""

    places: Sequence[Sequence[Measurement]]
    start: float
    end: float

    @property
    def counted(self) -> tuple[float, float]:
        """The time whose tokens count: all but the first part, in which all requests start at once."""
        return self.start + WARM_UP * (self.end - self.start), self.end

    @property
    def measured(self) -> list[Measurement]:
        return [one for place in self.places for one in place]

    @property
    def good(self) -> list[Measurement]:
        """The answers that came to their end."""
        return [one for one in self.measured if one.whole]

    @property
    def answers_per_s(self) -> float | None:
        """Whole answers per second, where all have the same length and each place has at least two; else None.

        Of each place, the answers count from the end of its first to the end of its last. So it does not matter where
        in an answer the window begins or ends.
        """
        if len({one.tokens for one in self.good}) != 1 or len(self.good) < len(self.measured):
            return None
        ends = [[one.ended for one in place if one.ended <= self.end] for place in self.places]
        if any(len(each) < 2 for each in ends):
            return None
        return sum((len(each) - 1) / (each[-1] - each[0]) for each in ends)

    @property
    def tokens_per_s(self) -> float:
        if (answers := self.answers_per_s) is not None:
            return answers * self.good[0].tokens
        return _rate(self.measured, *self.counted) or _rate(self.measured, self.start, self.end)


def _rate(measured: Sequence[Measurement], start: float, end: float) -> float:
    return sum(one.tokens_between(start, end) for one in measured) / (end - start)


@dataclass(frozen=True)
class Spread:
    """Percentiles in seconds; None where nothing was measured."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        return cls(*(quantile(ordered, share) for share in (0.5, 0.9, 0.99))) if ordered else cls()


@dataclass(frozen=True)
class Part:
    """A part of a level's time, from which the uncertainty of its figures follows: the rate, and medians in seconds."""

    generated_tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None


@dataclass(frozen=True)
class Level:
    """A number of requests in flight, and what it gave.

    ``requests`` were answered and ``failed`` were not. Rates are per second, of the time after the first fifth.
    ``errors`` are up to three different reasons of failures. ``parts`` are its figures in parts of that time.
    """

    in_flight: int
    requests: int = 0
    failed: int = 0
    generated_tokens_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    requests_per_s: float = 0.0
    tokens_per_answer: float = 0.0
    ttft_s: Spread = field(default_factory=Spread)
    tpot_s: Spread = field(default_factory=Spread)
    latency_s: Spread = field(default_factory=Spread)
    errors: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


WARM_UP = 0.2
"""The share of a window's time whose tokens are not counted: the first requests all start at once."""
PARTS = 4
"""A level that was measured in one go has so many parts."""


def level(in_flight: int, windows: Sequence[Window]) -> Level:
    """Sum up the requests of one or several windows of time."""
    good = [one for window in windows for one in window.good]
    failed = [one.error for window in windows for one in window.measured if one.error is not None]
    return Level(
        in_flight=in_flight,
        requests=len(good),
        failed=len(failed),
        generated_tokens_per_s=statistics.fmean(window.tokens_per_s for window in windows),
        prompt_tokens_per_s=statistics.fmean(map(_prompt_tokens_per_s, windows)),
        requests_per_s=statistics.fmean(map(_requests_per_s, windows)),
        tokens_per_answer=statistics.fmean(one.tokens for one in good) if good else 0.0,
        ttft_s=Spread.of(_known(one.ttft_s for one in good)),
        tpot_s=Spread.of(_known(one.tpot_s for one in good)),
        latency_s=Spread.of(_known(one.latency_s for one in good)),
        errors=tuple(dict.fromkeys(failed))[:3],
        parts=tuple(_parts(windows)),
    )


def _requests_per_s(window: Window) -> float:
    return (
        window.answers_per_s or _ended_per_s(window, *window.counted) or _ended_per_s(window, window.start, window.end)
    )


def _ended_per_s(window: Window, start: float, end: float) -> float:
    return sum(start <= one.ended <= end for one in window.good) / (end - start)


def _prompt_tokens_per_s(window: Window) -> float:
    answered = window.good
    return _requests_per_s(window) * statistics.fmean(one.prompt_tokens for one in answered) if answered else 0.0


def _parts(windows: Sequence[Window]) -> Iterator[Part]:
    """Return a part for each window, or cut the time of a single one into `PARTS`."""
    if len(windows) > 1:
        yield from (_part(window.good, window.tokens_per_s) for window in windows)
        return
    start, end = windows[0].counted
    step, measured = (end - start) / PARTS, windows[0].measured
    for number in range(PARTS):
        since, until = start + number * step, start + (number + 1) * step
        ended = [one for one in measured if one.whole and since <= one.ended < until]
        yield _part(ended, _rate(measured, since, until))


def _part(answers: Sequence[Measurement], tokens_per_s: float) -> Part:
    first, each = (_known(one.ttft_s for one in answers), _known(one.tpot_s for one in answers))
    return Part(tokens_per_s, Spread.of(first).p50, Spread.of(each).p50)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
