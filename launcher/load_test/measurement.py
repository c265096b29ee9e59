"""What a load test measures of one request, and of a level of requests in flight."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from launcher.stats.quantiles import quantile


@dataclass(frozen=True)
class Measurement:
    """One request: ``sent``, ``ended`` and ``events`` are times in seconds; each event is a piece of the answer.

    An answer may be empty, where the first token ends it. ``tokens`` and ``prompt_tokens`` are those of the server's
    usage; without it, an event counts as one token. ``error`` says why there is no whole answer; None where there is
    one.
    """

    sent: float
    ended: float = 0.0
    events: Sequence[float] = ()
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None

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
        return self.ended - self.sent if self.error is None else None

    def tokens_between(self, start: float, end: float) -> float:
        """Return the tokens that came within a time; an event holds an equal share of them."""
        inside = sum(start <= moment < end for moment in self.events)
        return self.tokens * inside / len(self.events) if self.events else 0.0


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
class Level:
    """A number of requests in flight, and what it gave.

    ``requests`` were answered and ``failed`` were not. Rates are per second, of the time after the first fifth.
    ``errors`` are up to three different reasons of failures.
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


WARM_UP = 0.2
"""The share of a level's time whose tokens are not counted: the first requests all start at once."""


def level(in_flight: int, measured: Sequence[Measurement], start: float, end: float) -> Level:
    """Sum up the requests that were sent from ``start`` to ``end``."""
    good = [one for one in measured if one.error is None]
    since = start + WARM_UP * (end - start)
    span = end - since
    ended = [one for one in good if since <= one.ended < end]
    return Level(
        in_flight=in_flight,
        requests=len(good),
        failed=len(measured) - len(good),
        generated_tokens_per_s=sum(one.tokens_between(since, end) for one in good) / span,
        prompt_tokens_per_s=sum(one.prompt_tokens for one in good if since <= one.ended < end) / span,
        requests_per_s=len(ended) / span,
        tokens_per_answer=statistics.fmean(one.tokens for one in good) if good else 0.0,
        ttft_s=Spread.of(list(_known(one.ttft_s for one in good))),
        tpot_s=Spread.of(list(_known(one.tpot_s for one in good))),
        latency_s=Spread.of(list(_known(one.latency_s for one in good))),
        errors=tuple(dict.fromkeys(one.error for one in measured if one.error))[:3],
    )


def _known(values: Iterator[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)
