"""Generate all choices of a request, and send them as one answer or as a stream."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.detokenizer import Choice, TextDelta, text_deltas
from launcher.api.service import Service
from launcher.asgi.errors import invalid
from launcher.asgi.responses import EventStream, encoded, json_response, until_disconnect
from launcher.core.errors import GrammarRefused
from launcher.core.token_times import as_headers
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

Indexed = tuple[int, TextDelta]
STREAM_BUFFER = 64
"""How many deltas of several choices may wait for a slow client before the engine waits, too."""


@dataclass(slots=True)
class Usage:
    """Token counts of a request: each prompt once, and all generated tokens of each choice."""

    prompt: int
    completion: int = 0

    def json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True)
class ResponseFormatter(ABC):
    """Writes the JSON of one answer. ``top`` is the number of alternatives per token that the request asks for."""

    id: str
    created: int
    model: str
    tokenizer: Tokenizer
    top: int | None

    @abstractmethod
    def response(self, answers: Sequence[TextDelta], usage: Usage) -> Json:
        """Return the answer to a request that does not stream; ``answers`` are in the order of the choices."""

    @abstractmethod
    def first_chunks(self, index: int) -> list[Json]:
        """Return the chunks that precede the first delta of a choice."""

    @abstractmethod
    def chunks(self, index: int, delta: TextDelta) -> list[Json]:
        """Return the chunks that carry one delta."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Json:
        """Return the last chunk of a stream that reports its usage."""

    def envelope(self, kind: str, choices: list[Json]) -> dict[str, Json]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


@dataclass(frozen=True)
class GenerationJob:
    """A validated request: what to generate, and how to write the answer.

    ``include_usage`` adds a last chunk with the usage; ``continuous_usage`` adds the usage so far to each chunk.
    ``grammar_param`` is the field that asks for a grammar.
    """

    choices: list[Choice]
    formatter: ResponseFormatter
    usage: Usage
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    grammar_param: str | None = None


async def answer(request: Request, service: Service, job: GenerationJob) -> Response:
    """Answer a request. An error of the engine before the first token is raised here, before anything is sent.

    Raises `Disconnected` when the client disconnects; all slots are then free.
    """
    generated = _generate(service, job)
    if job.stream:
        first = await until_disconnect(request.receive, anext(generated))
        return EventStream(encoded(_chunks(job, first, generated), service.log))
    body, times = await until_disconnect(request.receive, _response(job, generated))
    return json_response(body, headers=times)


async def _response(job: GenerationJob, generated: AsyncGenerator[Indexed, None]) -> tuple[Json, dict[str, str]]:
    """Return the answer, and the headers with the times of its tokens."""
    answers = [TextDelta() for _ in job.choices]
    start, first, pieces = time.perf_counter(), 0.0, 0
    async with aclosing(generated):
        async for index, delta in generated:
            answers[index].add(delta)
            pieces += 1
            first = first or time.perf_counter()
    end = time.perf_counter()
    job.usage.completion = sum(delta.generated for delta in answers)
    each_known = pieces > 1 and len(answers) == 1
    times = as_headers(first - start, end - start, job.usage.completion if each_known else None) if pieces else {}
    return job.formatter.response(answers, job.usage), times


async def _chunks(
    job: GenerationJob, first: Indexed, rest: AsyncGenerator[Indexed, None]
) -> AsyncGenerator[Json, None]:
    """Yield the JSON chunks of a stream."""
    async with aclosing(rest):
        for choice in job.choices:
            for chunk in job.formatter.first_chunks(choice.index):
                yield _with_usage(job, chunk)
        async for index, delta in _chained(first, rest):
            job.usage.completion += delta.generated
            for chunk in job.formatter.chunks(index, delta) if delta else ():
                yield _with_usage(job, chunk)
    if job.include_usage:
        yield job.formatter.usage_chunk(job.usage)


def _with_usage(job: GenerationJob, chunk: Json) -> Json:
    """With ``include_usage`` alone, each chunk but the last has a null usage."""
    if job.continuous_usage:
        return chunk | {"usage": job.usage.json()}
    return chunk | {"usage": None} if job.include_usage else chunk


async def _chained(first: Indexed, rest: AsyncGenerator[Indexed, None]) -> AsyncGenerator[Indexed, None]:
    yield first
    async for item in rest:
        yield item


async def _generate(service: Service, job: GenerationJob) -> AsyncGenerator[Indexed, None]:
    """Yield ``(index, delta)`` of all choices. Raises `ApiError` 400 where one cannot follow its grammar."""
    async with aclosing(_counted(service, job.choices)) as generated:
        try:
            async for item in generated:
                yield item
        except GrammarRefused as error:
            raise invalid(job.grammar_param, f"Invalid '{job.grammar_param}': {error}") from None


async def _counted(service: Service, choices: Sequence[Choice]) -> AsyncGenerator[Indexed, None]:
    """Yield ``(index, delta)`` of all choices as they are generated, and update the metrics."""
    start = time.perf_counter()
    waiting = len(choices)
    async with aclosing(_one(service, choices[0]) if waiting == 1 else _merged(service, choices)) as generated:
        async for index, delta in generated:
            if waiting:
                service.metrics.first_token(time.perf_counter() - start)
                waiting = 0
            if delta.calls or delta.unparsed:
                service.metrics.tool_calls(sum(call.id is not None for call in delta.calls), delta.unparsed)
            if delta.generated:
                service.readiness.produced()
            yield index, delta


async def _one(service: Service, choice: Choice) -> AsyncGenerator[Indexed, None]:
    async with aclosing(text_deltas(service.engine, choice)) as deltas:
        async for delta in deltas:
            yield choice.index, delta


async def _merged(service: Service, choices: Sequence[Choice]) -> AsyncGenerator[Indexed, None]:
    """Run several choices at the same time. If one fails, all end: the engine admits a whole request or none of it."""
    queue: asyncio.Queue[Indexed | None] = asyncio.Queue(STREAM_BUFFER)
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
    """Put the deltas of a choice into the queue, then None. An exception is recorded, and the reader woken."""
    try:
        async with aclosing(_one(service, choice)) as deltas:
            async for item in deltas:
                await queue.put(item)
    except Exception as error:
        failures.append(error)
    await queue.put(None)
