from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launcher.adapters.base import Adapter, closing
from launcher.adapters.chain import all_running, pipeline
from launcher.core.types import Request, Response


class Mark(Adapter):
    """Appends its name on the way in and on the way out."""

    def __init__(self, name: str, trace: list[str]) -> None:
        self.name, self.trace = name, trace

    async def __call__(self, request, call_next):
        self.trace.append(f"{self.name} in")
        response = await call_next(replace(request, body={**request.body, self.name: True}))
        self.trace.append(f"{self.name} out")
        return response


async def test_the_first_adapter_is_the_outermost():
    trace: list[str] = []

    async def innermost(request: Request) -> Response:
        return Response(200, dict(request.body))

    response = await pipeline([Mark("a", trace), Mark("b", trace)], innermost)(Request("/v1/completions", {}))
    assert trace == ["a in", "b in", "b out", "a out"]
    assert response.body == {"a": True, "b": True}


async def test_without_adapters_the_innermost_handler_answers():
    async def innermost(request: Request) -> Response:
        return Response(204)

    assert (await pipeline([], innermost)(Request("/v1/completions", {}))).status == 204


async def test_adapters_run_as_long_as_the_run(tmp_path: Path):
    async with all_running([Mark("a", [])], tmp_path, None):
        pass


async def test_closing_a_wrapped_stream_closes_the_stream_within():
    closed = []

    async def inner():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def outer(events):
        async with closing(events):
            async for event in events:
                yield event

    wrapped = outer(inner())
    assert await anext(wrapped) == 1
    await wrapped.aclose()
    assert closed == [True]
