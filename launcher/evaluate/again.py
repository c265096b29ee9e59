"""Decides which samples get a second attempt: truncated ones with more tokens, and failed ones at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from launcher.core.responses import LIMITS, limit_of, token_count
from launcher.core.types import Json, Record, Request, Sample, Status

MAX_DEFERRED = 10_000
"""So many failed samples are remembered for a second attempt at the end; any others wait for ``resume=``."""


@dataclass
class SecondAttempts:
    """Makes second attempts, and one record of both.

    A truncated sample is asked again with ``factor`` times the tokens (None: never). ``context`` is how many tokens the
    model takes (None: not known). ``failed`` says whether failed samples are asked again.
    """

    factor: float | None = None
    failed: bool = True
    context: int | None = None
    _first: dict[str, Record] = field(default_factory=dict)
    _deferred: int = 0

    def of(self, sample: Sample, record: Record) -> Sample | None:
        """Return the sample to ask once more, None where its record stands."""
        if sample.key in self._first:
            return None
        if record.status is Status.truncated and self.factor is not None:
            return self._begun(enlarged(sample, record.responses, self.factor, self.context), record)
        if record.status is Status.failed and self.failed and self._deferred < MAX_DEFERRED:
            self._deferred += 1
            return self._begun(sample, record)
        return None

    def _begun(self, sample: Sample | None, record: Record) -> Sample | None:
        if sample is not None:
            self._first[sample.key] = record
        return sample

    def first(self, sample: Sample) -> Record | None:
        """Return the record of the first attempt of a sample that is asked once more."""
        return self._first.get(sample.key) if self._first else None

    def joined(self, record: Record) -> Record:
        """Return the record of a sample, after its second attempt that of both.

        A truncated answer stands where the second attempt, with more tokens, got none.
        """
        first = self._first.get(record.key) if self._first else None
        if first is None:
            return record
        if first.status is Status.truncated and record.status in (Status.refused, Status.failed):
            why = f"{first.reason}; with more tokens it was {record.status.value}: {record.reason}"
            return replace(first, reason=why, earlier=(entry(record),))
        return replace(record, earlier=(entry(first),))

    def forget(self, sample: Sample) -> None:
        """Record that the second attempt of a sample has ended."""
        if self._first:
            self._first.pop(sample.key, None)


def entry(record: Record) -> dict[str, Json]:
    """Return what a record says of another attempt."""
    limits = [limit_of(request["body"]) for request in record.requests]
    limit = limits[0] if len(limits) == 1 else limits
    return {"status": record.status.value, "reason": record.reason, "max_tokens": limit, "usage": record.usage}


def enlarged(sample: Sample, responses: Sequence[Json], factor: float, context: int | None) -> Sample | None:
    """Return the sample with more tokens for its answers; None where no request can have more."""
    pairs = zip(sample.requests, responses, strict=True)
    requests = tuple(_with_more(request, response, factor, context) for request, response in pairs)
    return None if requests == sample.requests else replace(sample, requests=requests)


def _with_more(request: Request, response: Json, factor: float, context: int | None) -> Request:
    limit = limit_of(request.body)
    if limit is None or request.body.get("echo"):
        return request
    wanted = int(limit * factor)
    usage = response.get("usage") if isinstance(response, Mapping) else None
    prompt = token_count(usage, "prompt_tokens")
    if context is not None and prompt is not None:
        wanted = min(wanted, context - prompt)
    if wanted <= limit:
        return request
    more = {name: wanted for name in LIMITS if isinstance(request.body.get(name), int)}
    return replace(request, body={**request.body, **more})
