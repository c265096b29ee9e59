"""Sends a request again after failures that may pass."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
from datetime import UTC, datetime
from typing import ClassVar

from launcher.adapters.base import Adapter, Part
from launcher.core.errors import TransportError
from launcher.core.ranges import Count, Seconds, SecondsFromZero
from launcher.core.types import Handler, Request, Response
from launcher.settings.component import component

log = logging.getLogger(__name__)

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
"""The 4xx that say "later"; with every 5xx and `TransportError` they are asked again."""


@component("adapters/retry")
class Retry(Adapter):
    """Asks again after a transport error, a 408, 409, 425, 429 or a 5xx, for ``deadline_s`` seconds in all.

    The pause between attempts is ``first_delay_s``, and doubles each time up to ``max_delay_s``. It is up to half
    shorter at random, so that clients do not come back together. A longer ``Retry-After`` (seconds or a date) is waited
    for; one of 0 or in the past does not shorten the pause. The last attempt starts ``deadline_s`` seconds after the
    first one at the latest; then its answer or error stands. ``attempts`` bounds their number as well (null: only the
    time counts). A stream that has begun is never asked again.

    This is for the trouble of one request. While the server itself is gone or restarts, the evaluation pauses, see
    ``evaluate.max_pause_s``.

    Use it for every endpoint: it is there by default. Place it behind adapters that observe, and in front of those that
    change requests.

    Example: ``python launch.py 'adapters=[retry]' adapters.retry.deadline_s=600``
    """

    changes_answers: ClassVar[bool] = False
    needs_task = False
    reads = Part.none
    rewrites = Part.none

    attempts: Count | None = None
    first_delay_s: Seconds = 0.5
    max_delay_s: Seconds = 15.0
    deadline_s: SecondsFromZero = 120.0

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        clock = asyncio.get_running_loop().time
        start, attempt = clock(), 1
        while True:
            outcome = await _attempt(request, call_next)
            delay = self._delay(outcome, attempt, clock() - start)
            if delay is None:
                return _unwrap(outcome)
            log.debug("%s: attempt %d failed, again in %.2f s", request.sample or request.path, attempt, delay)
            await asyncio.sleep(delay)
            attempt += 1

    def _delay(self, outcome: Response | TransportError, attempt: int, spent_s: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None when this outcome is final."""
        left_s = self.deadline_s - spent_s
        if attempt == self.attempts or left_s <= 0 or not _is_retryable(outcome):
            return None
        requested = retry_after_s(outcome, datetime.now(UTC)) if isinstance(outcome, Response) else None
        return min(left_s, self.pause_s(attempt, requested or 0.0))

    def pause_s(self, attempt: int, requested_s: float = 0.0) -> float:
        """Return the seconds to wait after attempt number ``attempt``, counted from 1, if the server asked for so many.

        What the server asks for comes with up to one first delay more, so that clients do not come back together.
        """
        longest = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(attempt - 1, 60))
        if requested_s > longest:
            return requested_s + random.uniform(0.0, self.first_delay_s)
        return max(requested_s, longest * random.uniform(0.5, 1.0))


def retry_after_s(response: Response, now: datetime) -> float | None:
    """Return the seconds that ``Retry-After`` asks for (RFC 9110, 10.2.3), or None if it is absent or unreadable."""
    value = next((v.strip() for k, v in response.headers.items() if k.lower() == "retry-after"), "")
    try:
        seconds = float(value)
    except ValueError:
        return _until(value, now)
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str, now: datetime) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


async def _attempt(request: Request, call_next: Handler) -> Response | TransportError:
    try:
        return await call_next(request)
    except TransportError as error:
        return error


def _is_retryable(outcome: Response | TransportError) -> bool:
    if isinstance(outcome, TransportError):
        return True
    return outcome.events is None and (outcome.status in RETRYABLE_STATUSES or 500 <= outcome.status < 600)


def _unwrap(outcome: Response | TransportError) -> Response:
    if isinstance(outcome, TransportError):
        raise outcome
    return outcome
