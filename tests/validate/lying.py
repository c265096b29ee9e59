"""The echo engine behind HTTP, whose answers a test changes on their way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from launcher.api.app import create_app
from launcher.asgi.server import bind, server_log, serving
from launcher.core.types import Endpoint
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model

Lie = Callable[[str, dict[str, Any], dict[str, Any]], None]
"""Changes an answer in place, given the path and what was asked."""


@contextmanager
def server(folder: Path, lie: Lie | None = None) -> Iterator[Endpoint]:
    """Serve the echo engine, with a middleware that changes its JSON answers."""

    async def tell(request: Request, call_next: RequestResponseEndpoint) -> Response:
        asked = json.loads(await request.body() or b"{}")
        response = await call_next(request)
        body = b"".join([chunk async for chunk in _chunks(response)])
        kind = response.headers.get("content-type", "application/json")
        answer = json.loads(body) if response.status_code == 200 and body.startswith(b"{") else None
        if answer is not None and lie is not None:
            lie(request.url.path, asked, answer)
            body = json.dumps(answer).encode()
        return Response(body, response.status_code, media_type=kind)

    app = create_app(EchoAsyncEngine(Echo(), Model("echo")))
    app.add_middleware(BaseHTTPMiddleware, dispatch=tell)
    with bind("127.0.0.1", 0) as bound, server_log(folder / "log") as log, serving(app, bound, log, 2.0):
        yield Endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}/v1", "echo", "inline", "echo")


async def _chunks(response: Response) -> AsyncIterator[bytes]:
    async for chunk in response.body_iterator:  # type: ignore[attr-defined]
        yield chunk if isinstance(chunk, bytes) else chunk.encode()
