"""The web application of the pages: behind a token in its address, for this machine's browsers, made of events."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from urllib.parse import urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from launcher.asgi.responses import EventStream
from launcher.view import pages
from launcher.view.content import FILES, Content
from launcher.view.folders import Place, Roots
from launcher.view.index import Asked

LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The names by which a browser may ask: another one means that a page of another site asks, by DNS rebinding."""
EVERY_S, INDEX_EVERY_S = 1.0, 3.0
"""How often the files are looked at for an open page."""
HEARTBEAT_S = 15.0
REUSED_S = 0.5
"""So old parts serve several open pages of the same folder."""
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILE_POLICY = "sandbox allow-scripts allow-popups; frame-ancestors 'none'"
"""A report has a policy of its own; beyond that it is kept apart from the other pages."""

Parts = dict[str, str]
Make = Callable[[], Awaitable[Parts]]


class View:
    """The ASGI application. ``close`` ends the streams of open pages, after what is new by then."""

    def __init__(self, roots: Roots, token: str) -> None:
        self._roots, self._content = roots, Content(roots)
        self._token = token.encode()
        self._closed = False
        self._made: dict[str, tuple[float, Parts]] = {}
        self._making = asyncio.Lock()

    def close(self) -> None:
        self._closed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        response = await self._answer(request) if (refused := self._refused(request)) is None else refused
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        """Return the answer to a request that may not see anything; None for one that may."""
        if _host(request.headers.get("host", "")) not in LOCAL:
            return PlainTextResponse("this page is for browsers of its own machine\n", 403)
        token = request.url.path.split("/")[1]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return PlainTextResponse("there is nothing here; the address that was printed has a token in it\n", 404)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET\n", 405)
        return None

    async def _answer(self, request: Request) -> Response:
        path = request.url.path.split("/", 2)[2] if request.url.path.count("/") > 1 else None
        if path is None:
            return RedirectResponse(f"{request.url.path}/", 307)
        if path in ("", "events"):
            return await self._index(request, events=path == "events")
        if path == "compare":
            return await self._comparison(request)
        folder, _, last = path.rpartition("/")
        place = await asyncio.to_thread(self._roots.place, folder)
        if place is None:
            return await self._maybe_redirected(request, path)
        if last == "events":
            return self._events(self._parts_of(place), EVERY_S)
        if last in FILES and (place.path / last).is_file():
            kept_apart = {"Content-Security-Policy": FILE_POLICY}
            return FileResponse(place.path / last, media_type="text/html; charset=utf-8", headers=kept_apart)
        return await self._page(request, place) if not last else await self._maybe_redirected(request, path)

    async def _maybe_redirected(self, request: Request, path: str) -> Response:
        """Add the slash that a folder's address ends with; 404 for what is no folder of ours."""
        if await asyncio.to_thread(self._roots.place, path) is not None:
            return RedirectResponse(f"{request.scope['raw_path'].decode('ascii', 'replace')}/", 307)
        return PlainTextResponse("there is no such run\n", 404)

    async def _page(self, request: Request, place: Place) -> Response:
        parts = await self._parts_of(place)()
        home = None if self._roots.single else f"/{request.url.path.split('/')[1]}/"
        above = [("Up", "../")] if self._above(place) else []
        return _html(pages.whole(self._content.heading(place), parts, home, above))

    def _above(self, place: Place) -> bool:
        outer = f"{place.root}/{place.name.rpartition('/')[0]}".rstrip("/") if place.name else ""
        return bool(outer) and self._roots.place(outer) is not None

    async def _index(self, request: Request, *, events: bool) -> Response:
        if self._roots.single:
            return RedirectResponse("0/", 307)
        asked = Asked.of(request.query_params)
        make = self._shared(f"?{asked}", lambda: self._content.index(asked))
        if events:
            return self._events(make, INDEX_EVERY_S, without="form")
        return _html(pages.whole("Runs", await make(), None, []))

    async def _comparison(self, request: Request) -> Response:
        chosen = request.query_params.getlist("run")[:26]
        parts = await asyncio.to_thread(self._content.comparison, chosen)
        return _html(pages.whole("Comparison", parts, "./", [], live=False))

    def _parts_of(self, place: Place) -> Make:
        return self._shared(str(place.path), lambda: self._content.parts(place))

    def _shared(self, key: str, make: Callable[[], Parts]) -> Make:
        """Return what makes the parts in a thread: a network file system may hang. Parts made just now are used."""

        async def made() -> Parts:
            async with self._making:
                at, parts = self._made.get(key, (0.0, {}))
                if time.monotonic() - at > REUSED_S:
                    parts = await asyncio.to_thread(make)
                    self._made = {key: (time.monotonic(), parts)}
                return parts

        return made

    def _events(self, make: Make, every_s: float, without: str = "") -> Response:
        return EventStream(self._changes(make, every_s, without))

    async def _changes(self, make: Make, every_s: float, without: str) -> AsyncGenerator[bytes, None]:
        """Yield the parts that have changed, as events, until the page is left or this is closed."""
        sent: Parts = {}
        told = time.monotonic()
        while True:
            last, parts = self._closed, await make()
            new = {name: html for name, html in parts.items() if sent.get(name) != html and name != without}
            sent = parts
            if new or time.monotonic() - told > HEARTBEAT_S:
                told = time.monotonic()
                yield b"data: " + orjson.dumps(new) + b"\n\n"
            if last:
                return
            await self._wait(every_s)

    async def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and time.monotonic() < until:
            await asyncio.sleep(min(0.25, seconds))


def _host(header: str) -> str:
    """Return the name in a Host header, without its port: a tunnel may have another one."""
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


def _html(text: str) -> Response:
    return HTMLResponse(text)
