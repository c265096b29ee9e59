from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.adapters.retry import Retry, retry_after_s
from launcher.core.errors import TransportError, UserError
from launcher.core.types import Request, Response
from tests import virtual_time

OK = Response(200, {"choices": []})
REQUEST = Request("/v1/completions", {"prompt": "x"})


def quick(**settings) -> Retry:
    return Retry(**({"first_delay_s": 1e-6, "max_delay_s": 1e-6} | settings))


@dataclass
class Outage:
    """A server that is out until ``over``, on the loop's clock; when it was asked."""

    over: float
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 503
    times: list[float] = field(default_factory=list)

    async def __call__(self, request: Request) -> Response:
        self.times.append(asyncio.get_running_loop().time())
        return OK if self.times[-1] >= self.over else Response(self.status, headers=self.headers)

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times)]


def through(outage: Outage, retry: Retry) -> Response:
    """Ask in virtual time."""
    return virtual_time.run(retry(REQUEST, outage))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_the_defaults_outlast_an_outage_of_a_minute(status):
    outage = Outage(60.0, status=status)
    assert through(outage, Retry()) == OK
    assert len(outage.times) < 15, "the pauses grow"
    assert max(outage.pauses) <= Retry().max_delay_s


def test_what_does_not_pass_in_its_time_stands():
    outage = Outage(10**6)
    assert through(outage, Retry()).status == 503
    assert outage.times[-1] == pytest.approx(Retry().deadline_s), "the last attempt is made when the time is over"


@pytest.mark.parametrize("value", ["0", "0.0", "-0", "Sat, 31 Jan 2020 12:00:00 GMT", "-5", "soon", ""])
def test_a_retry_after_of_nothing_or_of_the_past_still_pauses(value):
    outage = Outage(10.0, {"Retry-After": value})
    assert through(outage, Retry(first_delay_s=1.0)) == OK
    assert min(outage.pauses) >= 0.5
    assert len(outage.times) <= 8


@pytest.mark.parametrize("value", ["1e300", "86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_of_any_length_is_bounded_by_the_time(value):
    outage = Outage(50.0, {"Retry-After": value})
    assert through(outage, Retry(deadline_s=60.0)) == OK
    assert outage.times == pytest.approx([0.0, 60.0])


@given(
    value=st.one_of(
        st.text(max_size=40), st.floats().map(str), st.integers().map(str), st.datetimes().map(format_datetime)
    ),
    deadline_s=st.floats(0, 1000),
    first_delay_s=st.floats(0.01, 100),
)
def test_no_retry_after_ends_the_pauses_or_outlasts_the_time(value, deadline_s, first_delay_s):
    outage = Outage(math.inf, {"Retry-After": value})
    retry = Retry(deadline_s=deadline_s, first_delay_s=first_delay_s, max_delay_s=100.0)
    assert through(outage, retry).status == 503
    assert outage.times[-1] <= deadline_s * (1 + 1e-9)
    assert all(pause >= first_delay_s / 2 - 1e-9 for pause in outage.pauses[:-1]), "the last one may be cut short"


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
    assert (await Retry(deadline_s=0)(REQUEST, upstream)).status == 503
    assert len(upstream.asked) == 1


def test_a_longer_retry_after_is_waited_for():
    outage = Outage(20.0, {"retry-after": "20"})
    assert through(outage, Retry()) == OK
    assert outage.times[0] == 0
    assert 20.0 <= outage.times[1] <= 20.5


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
        delays = [retry.pause_s(attempt) for _ in range(200)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
        assert max(delays) - min(delays) > longest / 4, "clients that failed together must not come back together"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attempts", 0),
        ("first_delay_s", 0.0),
        ("deadline_s", -1.0),
        ("deadline_s", float("inf")),
        ("max_delay_s", float("nan")),
    ],
)
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=rf"adapters\.retry\.{key} is {value}"):
        Retry(**{key: value})


def test_it_changes_no_answers():
    assert not Retry.changes_answers
