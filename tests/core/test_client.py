from __future__ import annotations

import asyncio
import dataclasses

import pytest
from aiohttp import web

from launcher.core.client import Client, sse
from launcher.core.errors import TransportError
from launcher.core.types import Request
from tests.evaluate.evaluation_server import said, serving

ASK = Request("/v1/completions", {"prompt": "é"})
STREAM = Request("/v1/completions", {"prompt": "x", "stream": True})


async def answer_to(answer, request=ASK, timeout_s=30.0):
    async with serving(answer) as server, Client(server.endpoint, timeout_s=timeout_s) as client:
        return await client(request)


async def test_the_body_is_posted_and_the_answer_parsed():
    async with serving() as server, Client(server.endpoint, timeout_s=30) as client:
        response = await client(ASK)
    assert server.asked == [{"prompt": "é"}]
    assert (response.status, response.ok) == (200, True)
    assert response.body["choices"][0]["text"] == "é"
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.latency_s > 0


async def test_the_path_is_under_the_endpoints_root_and_the_key_is_sent():
    async def answer(body, request):
        return said("", path=request.path, headers=dict(request.headers))

    async with serving(answer) as server:
        keyed = dataclasses.replace(server.endpoint, api_key="s3cret")
        async with Client(keyed, timeout_s=30) as client:
            body = (await client(dataclasses.replace(ASK, headers={"X-Trace": "1"}))).body
            own = (await client(dataclasses.replace(ASK, headers={"Authorization": "Bearer mine"}))).body
    assert body["path"] == "/v1/completions"
    assert (body["headers"]["Authorization"], body["headers"]["X-Trace"]) == ("Bearer s3cret", "1")
    assert own["headers"]["Authorization"] == "Bearer mine"
    assert "s3cret" not in repr(keyed)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_an_error_status_is_an_answer(status):
    async def answer(body, request):
        return web.json_response({"error": {"message": "no"}}, status=status, headers={"Retry-After": "3"})

    response = await answer_to(answer)
    assert (response.status, response.ok, response.body["error"]["message"]) == (status, False, "no")
    assert response.headers["Retry-After"] == "3"


async def test_an_error_page_is_put_into_the_shape_of_an_error():
    async def answer(body, request):
        return web.Response(status=502, text="<html>Bad Gateway</html>")

    assert (await answer_to(answer)).body["error"]["message"] == "HTTP 502: <html>Bad Gateway</html>"


async def test_a_redirect_is_not_followed_but_named():
    async def answer(body, request):
        return web.Response(status=307, headers={"Location": "/v1/completions/"})

    response = await answer_to(answer)
    assert response.status == 307
    assert "/v1/completions/" in response.body["error"]["message"]


async def test_a_good_status_without_json_is_a_transport_error():
    async def answer(body, request):
        return web.Response(text="hello")

    with pytest.raises(TransportError, match="no JSON: 'hello'"):
        await answer_to(answer)


async def test_a_port_without_a_server_is_a_transport_error():
    async with serving() as server:
        pass
    async with Client(server.endpoint, timeout_s=30) as client:
        with pytest.raises(TransportError, match="/v1/completions"):
            await client(ASK)


async def test_a_connection_that_breaks():
    async def answer(body, request):
        request.transport.abort()
        return said("")

    with pytest.raises(TransportError):
        await answer_to(answer)


async def test_an_answer_that_does_not_come_in_time():
    async def answer(body, request):
        await asyncio.Event().wait()

    with pytest.raises(TransportError, match=r"no answer within 0\.05 s"):
        await answer_to(answer, timeout_s=0.05)


async def test_a_timeout_ends_only_its_own_request():
    async def answer(body, request):
        if body["prompt"] == "slow":
            await asyncio.Event().wait()
        return said("ok")

    async with serving(answer) as server, Client(server.endpoint, timeout_s=0.2) as client:
        with pytest.raises(TransportError):
            await client(Request("/v1/completions", {"prompt": "slow"}))
        assert (await until_answered(client)).ok


async def until_answered(client):
    """Ask until the machine is quick enough for the timeout."""
    while True:
        try:
            return await client(ASK)
        except TransportError:
            continue


async def test_at_most_so_many_connections():
    hold = asyncio.Event()

    async def answer(body, request):
        if server.now == 3:
            hold.set()
        await hold.wait()
        return said("")

    async with serving(answer) as server, Client(server.endpoint, timeout_s=30, concurrency=3) as client:
        await asyncio.gather(*(client(ASK) for _ in range(10)))
    assert (server.most, len(server.asked)) == (3, 10)


async def test_as_many_connections_as_were_asked_for():
    """Also more than the hundred that clients allow by default."""
    together = asyncio.Event()

    async def answer(body, request):
        if server.now == 150:
            together.set()
        await together.wait()
        return said("")

    async with serving(answer) as server, Client(server.endpoint, timeout_s=60, concurrency=150) as client:
        await asyncio.gather(*(client(ASK) for _ in range(150)))
        assert server.most == 150


async def test_a_page_may_be_plain_text():
    async with serving() as server, Client(server.endpoint, timeout_s=30) as client:
        assert (await client.get(server.endpoint.root + "/health")).body == ""


async def test_outside_of_its_block_it_says_so():
    async with serving() as server:
        with pytest.raises(RuntimeError, match="async with"):
            await Client(server.endpoint, timeout_s=1)(ASK)


def streamed(*parts, kind="text/event-stream"):
    async def answer(body, request):
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for part in parts:
            if part is None:
                request.transport.abort()
                return response
            await response.write(part)
        return response

    return answer


async def events_of(*parts, timeout_s=30.0):
    async with serving(streamed(*parts)) as server, Client(server.endpoint, timeout_s=timeout_s) as client:
        response = await client(STREAM)
        assert response.body is None
        return [event async for event in response.events]


async def test_a_stream_is_parsed_into_events():
    found = await events_of(b'data: {"a": 1}\n\n', b': ping\n\ndata: {"a"', b": 2}\r\n\r\nda", b"ta: [DONE]\n\n")
    assert found == [{"a": 1}, {"a": 2}]


async def test_events_come_as_soon_as_they_are_there():
    go_on = asyncio.Event()

    async def answer(body, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: 2\n\ndata: [DONE]\n\n")
        return response

    async with serving(answer) as server, Client(server.endpoint, timeout_s=30) as client:
        events = (await client(STREAM)).events
        assert await anext(events) == 1  # type: ignore[arg-type]
        go_on.set()
        assert [event async for event in events] == [2]


@pytest.mark.parametrize("parts", [[b"data: 1\n\n"], [b"data: 1\n\n", None], [b"data: 1\n\ndata: {\n\n"]])
async def test_a_stream_that_ends_early_or_breaks_is_a_transport_error(parts):
    with pytest.raises(TransportError):
        await events_of(*parts)


async def test_a_stream_is_bounded_between_events():
    async def answer(body, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.Event().wait()

    async with serving(answer) as server, Client(server.endpoint, timeout_s=0.05) as client:
        with pytest.raises(TransportError, match="no answer within"):
            await anext((await client(STREAM)).events)  # type: ignore[arg-type]


async def test_an_error_instead_of_a_stream_is_an_answer():
    async def answer(body, request):
        return web.json_response({"error": {"message": "no"}}, status=400)

    response = await answer_to(answer, STREAM)
    assert (response.status, response.events) == (400, None)


async def test_a_reader_that_leaves_frees_the_servers_request():
    gone = asyncio.Event()

    async def answer(body, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"data: 1\n\n")
                await asyncio.sleep(0)
        finally:
            gone.set()

    async with serving(answer) as server, Client(server.endpoint, timeout_s=30) as client:
        events = (await client(STREAM)).events
        assert await anext(events) == 1  # type: ignore[arg-type]
        await events.aclose()
        async with asyncio.timeout(30):
            await gone.wait()


async def test_every_cut_of_the_bytes_gives_the_same_events():
    data = 'event: x\ndata: {"é": 1}\ndata: ,2\n\n: c\r\n\r\ndata:3\r\n\r\ndata: [DONE]\n\n'.encode()

    async def chunks(cut):
        for part in (data[:cut], data[cut:]):
            yield part

    for cut in range(len(data) + 1):
        assert [event async for event in sse(chunks(cut))] == ['{"é": 1}\n,2', "3", "[DONE]"]
