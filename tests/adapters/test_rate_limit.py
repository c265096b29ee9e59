from __future__ import annotations

import asyncio

import pytest

from launcher.adapters.rate_limit import RateLimit
from launcher.core.errors import UserError
from launcher.core.types import Request, Response
from tests import virtual_time

REQUEST = Request("/v1/completions", {"prompt": "x"})


def times(adapter, number, *, tokens=None, cached=False, gap_s=0.0):
    """Return when each of so many requests, sent together or one after the other, reaches the server."""
    arrived = []

    async def upstream(request):
        arrived.append(asyncio.get_running_loop().time())
        return Response(200, {"choices": [], "usage": {"total_tokens": tokens}}, cached=cached)

    async def send():
        if tokens is None:
            await asyncio.gather(*(adapter(REQUEST, upstream) for _ in range(number)))
        else:
            for _ in range(number):
                await adapter(REQUEST, upstream)
                await asyncio.sleep(gap_s)

    virtual_time.run(send())
    return arrived


def test_requests_are_spread_over_the_minute():
    assert times(RateLimit(requests_per_minute=30), 4) == pytest.approx([0, 2, 4, 6])


def test_a_burst_goes_out_at_once():
    assert times(RateLimit(requests_per_minute=60, burst=3), 5) == pytest.approx([0, 0, 0, 1, 2])


def test_tokens_delay_the_requests_after_them():
    assert times(RateLimit(tokens_per_minute=60), 4, tokens=90) == pytest.approx([0, 30, 120, 210])


def test_a_cached_answer_uses_no_tokens():
    assert times(RateLimit(tokens_per_minute=60), 3, tokens=90, cached=True) == pytest.approx([0, 0, 0])


def test_a_quiet_time_is_no_credit_above_the_burst():
    assert times(RateLimit(tokens_per_minute=60), 3, tokens=90, gap_s=600) == pytest.approx([0, 600, 1200])


def test_a_limit_is_needed():
    with pytest.raises(UserError, match="requests_per_minute, tokens_per_minute"):
        RateLimit()
