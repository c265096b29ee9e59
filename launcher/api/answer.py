"""Generate all choices of a request, and send them whole or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.choice import Choice, TextDelta, pieces
from launcher.api.disconnect import until_disconnect
from launcher.api.encode import respond
from launcher.api.form import ResponseFormatter, Usage
from launcher.api.service import Service
from launcher.api.stream import EventStream, encoded
from launcher.core.types import Json

Indexed = tuple[int, TextDelta]
AHEAD = 64
"""How many pieces may wait for a slow client before the engine has to wait too."""


@dataclass(frozen=True)
class GenerationJob:
    """A request as planned: what to generate, and how to write the answer.

    ``include_usage`` adds a last chunk with the usage; ``continuous_usage`` has it so far in every chunk.
    """

    choices: list[Choice]
    form: ResponseFormatter
    usage: Usage
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


async def answer(request: Request, service: Service, job: GenerationJob) -> Response:
    """Answer a request. What the engine refuses is raised here, before anything is sent.

    Raises `Disconnected` when the client goes away; all slots are then free.
    """
    generated = _generate(service, job.choices)
    if job.stream:
        first = await until_disconnect(request.receive, anext(generated))
        return EventStream(encoded(_chunks(job, first, generated), service.log))
    return respond(await until_disconnect(request.receive, _whole(job, generated)))


async def _whole(job: GenerationJob, generated: AsyncGenerator[Indexed, None]) -> Json:
    answers = [TextDelta() for _ in job.choices]
    async with aclosing(generated):
        async for index, piece in generated:
            answers[index].add(piece)
    job.usage.completion = sum(piece.generated for piece in answers)
    return job.form.whole(answers, job.usage)


async def _chunks(
    job: GenerationJob, first: Indexed, rest: AsyncGenerator[Indexed, None]
) -> AsyncGenerator[Json, None]:
    """Yield the JSON chunks of a stream."""
    async with aclosing(rest):
        for choice in job.choices:
            for chunk in job.form.opening(choice.index):
                yield _with_usage(job, chunk)
        async for index, piece in _chained(first, rest):
            job.usage.completion += piece.generated
            if piece:
                yield _with_usage(job, job.form.chunk(index, piece))
    if job.include_usage:
        yield job.form.total(job.usage)


def _with_usage(job: GenerationJob, chunk: Json) -> Json:
    """With ``include_usage`` alone, every chunk but the last says that the usage is not known yet."""
    if job.continuous_usage:
        return chunk | {"usage": job.usage.json()}
    return chunk | {"usage": None} if job.include_usage else chunk


async def _chained(first: Indexed, rest: AsyncGenerator[Indexed, None]) -> AsyncGenerator[Indexed, None]:
    yield first
    async for item in rest:
        yield item


async def _generate(service: Service, choices: Sequence[Choice]) -> AsyncGenerator[Indexed, None]:
    """Yield ``(index, piece)`` of all choices as they come, and keep the metrics."""
    start = time.perf_counter()
    waiting = len(choices)
    async with aclosing(_one(service, choices[0]) if waiting == 1 else _merged(service, choices)) as generated:
        async for index, piece in generated:
            if waiting:
                service.metrics.first_token(time.perf_counter() - start)
                waiting = 0
            if piece.generated:
                service.readiness.produced()
            yield index, piece


async def _one(service: Service, choice: Choice) -> AsyncGenerator[Indexed, None]:
    async with aclosing(pieces(service.runner, choice)) as found:
        async for piece in found:
            yield choice.index, piece


async def _merged(service: Service, choices: Sequence[Choice]) -> AsyncGenerator[Indexed, None]:
    """Run several choices at the same time. If one fails all end, so that a request is admitted whole or not at all."""
    queue: asyncio.Queue[Indexed | None] = asyncio.Queue(AHEAD)
    failures: list[Exception] = []
    tasks = [asyncio.ensure_future(_pump(service, choice, queue, failures)) for choice in choices]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if failures:
                raise failures[0]
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    service: Service, choice: Choice, queue: asyncio.Queue[Indexed | None], failures: list[Exception]
) -> None:
    """Put the pieces of a choice into the queue, then None. An exception is noted, and the reader woken."""
    try:
        async with aclosing(_one(service, choice)) as found:
            async for item in found:
                await queue.put(item)
    except Exception as error:
        failures.append(error)
    await queue.put(None)
