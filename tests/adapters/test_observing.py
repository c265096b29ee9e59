"""An observer can neither change an exchange nor fail it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from launcher.adapters.base import Adapter, closing
from launcher.adapters.chain import all_running, pipeline
from launcher.core.errors import AdapterStop, TransportError, UserError
from launcher.core.types import Handler, Request, Response

ASKED = Request("/v1/completions", {"prompt": "p"})
ANSWER = Response(200, {"choices": []})
EVENTS = [{"n": n} for n in range(4)]


class Observer(Adapter):
    """An observer that does as ``act`` says."""

    observer = True

    def __init__(self, act):
        self.act = act

    async def __call__(self, request, call_next):
        return await self.act(request, call_next)


async def streamed(handler: Handler) -> Any:
    return (await handler(ASKED)).events


async def before(request, call_next):
    raise ValueError("planted")


async def after(request, call_next):
    await call_next(request)
    raise ValueError("planted")


async def stops(request, call_next):
    raise AdapterStop("planted")


async def silent(request, call_next):
    return Response(500, {"error": "planted"})


async def changes(request, call_next):
    response = await call_next(replace(request, body={"prompt": "changed"}, path="/v1/other"))
    return replace(response, status=201, body={"changed": True})


async def twice(request, call_next):
    await call_next(request)
    return await call_next(request)


async def swallows(request, call_next):
    try:
        return await call_next(request)
    except Exception:
        return Response(200, {"choices": ["made up"]})


async def translates(request, call_next):
    try:
        return await call_next(request)
    except Exception as error:
        raise ValueError("planted") from error


ACTS = [before, after, stops, silent, changes, twice, swallows, translates]
FAILING = {before, after, stops}


@pytest.mark.parametrize("act", ACTS)
async def test_the_answer_is_the_server_s(server, act, tmp_path):
    upstream = server(ANSWER)
    async with all_running([Observer(act)], tmp_path, None) as failures:
        response = await pipeline([Observer(act)], upstream, failures)(ASKED)
    assert response is ANSWER
    assert upstream.asked == [ASKED]
    assert failures.counts == ({"Observer": 1} if act in FAILING else {})


@pytest.mark.parametrize("act", ACTS)
async def test_the_error_is_the_server_s(server, act, tmp_path):
    upstream = server(TransportError("down"))
    async with all_running([], tmp_path, None) as failures:
        with pytest.raises(TransportError, match="down"):
            await pipeline([Observer(act)], upstream, failures)(ASKED)
    assert len(upstream.asked) == 1
    assert failures.counts == ({"Observer": 1} if act in {before, stops, translates} else {})


def watching(at, where):
    """Return an observer of streams that raises at an event, before or after it passes it on."""

    async def act(request, call_next):
        response = await call_next(request)

        async def events():
            async with closing(response.events) as inner:
                async for event in inner:
                    if where == "before" and event["n"] == at:
                        raise ValueError("planted")
                    yield event
                    if where == "after" and event["n"] == at:
                        raise ValueError("planted")
            if where == "end":
                raise ValueError("planted")

        return replace(response, events=events())

    return act


@pytest.mark.parametrize(("at", "where"), [(0, "before"), (2, "before"), (0, "after"), (3, "after"), (0, "end")])
async def test_a_stream_goes_on_without_an_observer_that_failed(stream, server, at, where, tmp_path):
    async with all_running([], tmp_path, None) as failures:
        chain = pipeline([Observer(watching(at, where))], server(Response(200, events=stream(EVENTS))), failures)
        response = await chain(ASKED)
        assert [event async for event in response.events] == EVENTS
    assert failures.counts == {"Observer": 1}


async def test_an_observer_cannot_change_a_stream(stream, server):
    async def act(request, call_next):
        response = await call_next(request)

        async def events():
            async for event in response.events:
                if event["n"] % 2:
                    yield {"changed": True}

        return replace(response, events=events())

    response = await pipeline([Observer(act)], server(Response(200, events=stream(EVENTS))))(ASKED)
    assert [event async for event in response.events] == EVENTS


async def test_an_error_of_a_stream_is_the_server_s(stream, server, tmp_path):
    broken = [*EVENTS[:2], TransportError("cut"), *EVENTS[2:]]
    async with all_running([], tmp_path, None) as failures:
        chain = pipeline([Observer(watching(9, "before"))], server(Response(200, events=stream(broken))), failures)
        events = await streamed(chain)
        assert [await anext(events), await anext(events)] == EVENTS[:2]
        with pytest.raises(TransportError, match="cut"):
            await anext(events)
    assert failures.counts == {}


async def test_who_leaves_a_stream_closes_it_also_where_the_observer_fails_then(server, tmp_path):
    closed = []

    async def events():
        try:
            for event in EVENTS:
                yield event
        finally:
            closed.append(True)

    async def act(request, call_next):
        response = await call_next(request)

        async def seen():
            try:
                async for event in response.events:
                    yield event
            finally:
                raise ValueError("planted")

        return replace(response, events=seen())

    async with all_running([], tmp_path, None) as failures:
        given = await streamed(pipeline([Observer(act)], server(Response(200, events=events())), failures))
        assert await anext(given) == EVENTS[0]
        await given.aclose()
    assert closed == [True]
    assert failures.counts == {"Observer": 1}


async def test_who_leaves_while_the_server_works_cancels_the_request(tmp_path):
    async def hangs(request):
        await asyncio.Event().wait()

    async with all_running([], tmp_path, None) as failures:
        asked = asyncio.ensure_future(pipeline([Observer(swallows)], hangs, failures)(ASKED))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert failures.counts == {}


class Leaving(Observer):
    @asynccontextmanager
    async def running(self, folder, downstream):
        yield
        raise ValueError("planted")


async def test_failures_are_logged_once_counted_and_added_to_those_of_earlier_sessions(server, tmp_path, caplog):
    for session in (1, 2):
        observer = Leaving(before)
        async with all_running([observer], tmp_path, None) as failures:
            for _ in range(3):
                await pipeline([observer], server(ANSWER), failures)(ASKED)
        found = json.loads((tmp_path / "adapter_failures.json").read_text())
        assert found == {"Leaving": {"count": 4 * session, "first": "ValueError: planted"}}
    assert caplog.text.count("planted") == 2


async def test_an_error_of_the_run_is_not_the_observer_s(tmp_path):
    with pytest.raises(UserError, match="of the run"):
        async with all_running([Leaving(before)], tmp_path, None) as failures:
            raise UserError("of the run")
    assert failures.counts == {}


async def test_without_failures_there_is_no_file(server, tmp_path):
    async with all_running([Observer(twice)], tmp_path, None) as failures:
        await pipeline([Observer(twice)], server(ANSWER), failures)(ASKED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {}}', '{"a": {"count": "many", "first": ""}}'])
async def test_a_damaged_file_ends_the_run_before_the_first_request(tmp_path, content):
    (tmp_path / "adapter_failures.json").write_text(content)
    with pytest.raises(UserError, match="remove it to count from zero"):
        async with all_running([], tmp_path, None):
            pass


async def test_an_adapter_that_is_none_fails_the_request(server):
    class Closed(Observer):
        observer = False

    with pytest.raises(ValueError, match="planted"):
        await pipeline([Closed(before)], server(ANSWER))(ASKED)
