"""The pages in Chromium: they load, update themselves, fit every width, and run no script but their own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from launcher.core.run_folder import RunFolder
from launcher.view.serve import served
from tests.view import folders

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
WIDTHS = (390, 1280, 1600)
LIMIT_S = 120.0
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
ERRORS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening"}


class Tab:
    """A page of the browser, driven over its DevTools socket. ``errors`` has what its console said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self._session: str | None = None
        self.errors: list[str] = []

    async def begin(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        found = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": self._number, "method": method, "params": params, **session})
        while True:
            message = await self._socket.receive_json()
            if message.get("method") in ERRORS:
                self.errors.append(str(message["params"]))
            if message.get("id") == self._number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found

    async def value(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(LIMIT_S):
            while not await self.value(expression):
                await asyncio.sleep(0.05)

    async def open(self, address: str) -> None:
        await self.call("Page.navigate", url=address)
        await self.until(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    async def fits(self, width: int) -> bool:
        """Tell whether nothing is wider than the window; scrolling boxes of their own may be."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        return bool(await self.value("document.documentElement.scrollWidth <= innerWidth"))


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={profile}", stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(await _socket(process), max_msg_size=0) as ws:
            tab = Tab(ws)
            await tab.begin()
            yield tab
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def _socket(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        while line := (await process.stderr.readline()).decode(errors="replace"):
            if found := re.search(r"ws://\S+", line):
                return found.group()
    raise AssertionError("Chromium ended before it listened")


def made(root: Path) -> list[str]:
    """Write a folder of each kind with hostile texts; return the addresses of all pages."""
    bad = folders.HOSTILE
    over = folders.certified(folders.finished(root / "over", model=bad, reason=bad), text=bad)
    RunFolder(over).server_log.write_text(f"{bad}\n" * 100)
    folders.certified(folders.running(root / "on <b>", age_s=-3600, task=bad), valid=True)
    folders.swept(root / "sweep")
    folders.watched(root / "watch", text=bad)
    pages = ("", "0/over/", "0/on%20%3Cb%3E/", "0/sweep/", "0/sweep/2/", "0/watch/", "0/over/report.html")
    return [*pages, "compare?run=0/over/&run=0/sweep/0/", "?words=%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
async def test_the_pages_live_in_a_browser(tmp_path):
    addresses, run = made(tmp_path / "runs"), tmp_path / "runs" / "on <b>"
    async with browser(tmp_path / "profile") as tab:
        with served([tmp_path / "runs"], 0) as address:
            for page in addresses:
                await tab.open(address + page)
                assert not await tab.value("window.hit"), page
                assert [width for width in WIDTHS if not await tab.fits(width)] == [], page
            await tab.open(f"{address}0/on%20%3Cb%3E/")
            await tab.until("document.body.innerText.includes('30 of 120 samples')")
            folders.running(run, done=60, age_s=-3600, task=folders.HOSTILE)
            await tab.until("document.body.innerText.includes('60 of 120 samples')")
            await tab.until("document.querySelector('#connection').innerText.includes('live')")
            assert not await tab.value("window.hit")
            folders.finished(run, model="done")
            RunFolder(run).stage.unlink()
            await tab.until("document.querySelector('#head').innerText.includes('Every step succeeded')")
            assert tab.errors == []
        await tab.until("document.querySelector('#connection').innerText.includes('no connection')")
