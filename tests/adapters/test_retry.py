from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from launcher.adapters.retry import Retry, retry_after_s
from launcher.core import Request, Response
from launcher.errors import TransportError, UserError

OK = Response(200, {"choices": []})
REQUEST = Request("/v1/completions", {"prompt": "x"})


def quick(**settings) -> Retry:
    return Retry(**({"first_delay_s": 0.0, "max_delay_s": 0.0} | settings))


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_asked_again(server, status):
    upstream = server(Response(status), Response(status), OK)
    assert await quick()(REQUEST, upstream) == OK
    assert upstream.asked == [REQUEST] * 3


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 413, 422, 451])
async def test_what_does_not_pass_is_asked_once(server, status):
    upstream = server(Response(status))
    assert (await quick()(REQUEST, upstream)).status == status
    assert len(upstream.asked) == 1


async def test_a_transport_error_is_asked_again(server):
    upstream = server(TransportError("refused"), OK)
    assert await quick()(REQUEST, upstream) == OK


async def test_the_last_outcome_stands_after_all_attempts(server):
    upstream = server(Response(500), TransportError("first"), Response(503, "last"))
    assert await quick(attempts=3)(REQUEST, upstream) == Response(503, "last")
    broken = server(TransportError("down"))
    with pytest.raises(TransportError, match="down"):
        await quick(attempts=3)(REQUEST, broken)
    assert len(broken.asked) == 3


async def test_other_exceptions_and_cancellation_are_not_caught(server):
    upstream = server(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await quick()(REQUEST, upstream)
    cancelled = server(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await quick()(REQUEST, cancelled)
    assert len(upstream.asked) == len(cancelled.asked) == 1


async def test_a_stream_that_began_is_never_asked_again(server, stream):
    upstream = server(Response(200, events=stream([{"choices": []}, TransportError("cut")])))
    response = await quick()(REQUEST, upstream)
    with pytest.raises(TransportError, match="cut"):
        [event async for event in response.events]
    assert len(upstream.asked) == 1


async def test_no_attempt_starts_after_the_deadline(server):
    upstream = server(Response(503, headers={"Retry-After": "3600"}))
    assert (await Retry(deadline_s=60)(REQUEST, upstream)).status == 503
    assert len(upstream.asked) == 1


async def test_retry_after_is_preferred_to_the_backoff(server):
    upstream = server(Response(429, headers={"retry-after": "0"}), OK)
    assert await Retry(first_delay_s=3600, max_delay_s=3600, deadline_s=60)(REQUEST, upstream) == OK


NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (" 3 ", 3.0),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30.0),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30.0),
        ("Sat, 31 Jan 2026 13:00:00 +0100", 0.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value, seconds):
    assert retry_after_s(Response(503, headers={"Retry-After": value}), NOW) == seconds


def test_without_the_header_nothing_is_asked_for():
    assert retry_after_s(Response(503), NOW) is None


def test_the_backoff_doubles_up_to_its_bound_with_jitter():
    retry = Retry(first_delay_s=1.0, max_delay_s=8.0)
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)):
        delays = [retry.backoff_s(attempt) for _ in range(200)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
        assert max(delays) - min(delays) > longest / 4, "clients that failed together must not come back together"


@pytest.mark.parametrize(
    ("key", "value"), [("attempts", 0), ("first_delay_s", -1.0), ("deadline_s", -1.0), ("max_delay_s", float("nan"))]
)
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=rf"adapters\.retry\.{key} is {value}"):
        Retry(**{key: value})


def test_it_changes_no_answers():
    assert not Retry.changes_answers
