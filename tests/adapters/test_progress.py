from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from launcher.adapters.base import Downstream
from launcher.adapters.progress import Progress
from launcher.core.errors import TransportError, UserError
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {})


async def test_the_file_tells_what_was_answered(server, tmp_path):
    progress = Progress()
    async with progress.running(tmp_path, Downstream(None)):
        for answer in (Response(200, {}), Response(500, {}), Response(200, {})):
            await progress(REQUEST, server(answer))
        with pytest.raises(TransportError):
            await progress(REQUEST, server(TransportError("gone")))
    found = json.loads((tmp_path / "progress.json").read_text())
    assert found.pop("started") <= found.pop("updated")
    assert found == {"requests": 4, "in_flight": 0, "answered": 2, "errors": 2, "finished": True}


@pytest.fixture
async def webhook():
    """A server that keeps what is posted to it, and answers with the status that ``statuses`` has next."""
    posted: list[tuple[str | None, dict]] = []

    async def take(request):
        posted.append((request.headers.get("Authorization"), await request.json()))
        return web.Response(status=200)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", posted
    await runner.cleanup()


async def test_the_webhook_gets_the_same(server, tmp_path, webhook, monkeypatch):
    url, posted = webhook
    monkeypatch.setenv("HOOK_TOKEN", "t0ken-value")
    progress = Progress(webhook=f"{url}/hook", token_env="HOOK_TOKEN", interval_s=0.01)
    assert progress.variables() == {"adapters.progress.token_env": "HOOK_TOKEN"}
    async with progress.running(tmp_path, Downstream(None)):
        await progress(REQUEST, server())
        async with asyncio.timeout(30):
            while len(posted) < 3:
                await asyncio.sleep(0.01)
    assert {token for token, _ in posted} == {"Bearer t0ken-value"}
    assert posted[-1][1] == json.loads((tmp_path / "progress.json").read_text())


async def test_no_request_waits_for_the_webhook(server, tmp_path):
    """The webhook answers only after the request has its answer."""
    reported, answered = asyncio.Event(), asyncio.Event()

    async def waits(request):
        reported.set()
        await answered.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", waits)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    progress = Progress(webhook=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
    try:
        async with asyncio.timeout(30), progress.running(tmp_path, Downstream(None)):
            await reported.wait()
            assert (await progress(REQUEST, server())).ok
            assert not answered.is_set()
            answered.set()
    finally:
        answered.set()
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/missing", None], ids=["404", "no server"])
async def test_a_webhook_that_fails_is_logged_once_and_fails_nothing(server, tmp_path, webhook, caplog, path):
    url = webhook[0] + path if path else "http://127.0.0.1:9/"
    progress = Progress(webhook=url, interval_s=0.01)
    async with progress.running(tmp_path, Downstream(None)):
        assert (await progress(REQUEST, server())).ok
        await asyncio.sleep(0.05)
    assert len([record for record in caplog.records if "adapters.progress.webhook" in record.getMessage()]) == 1
    assert json.loads((tmp_path / "progress.json").read_text())["finished"] is True


@pytest.mark.parametrize("webhook_url", ["host/path", "ftp://host/", "http://"])
def test_a_webhook_is_a_url(webhook_url):
    with pytest.raises(UserError, match=r"adapters\.progress\.webhook"):
        Progress(webhook=webhook_url)
