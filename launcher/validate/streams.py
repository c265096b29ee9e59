"""Checks that a streamed answer is the whole one, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.core.responses import check_stream
from launcher.core.types import Json, Request
from launcher.validate.check import Capability, CheckContext, Doubt, Failure, Family, NotApplicable, text_of, usage_of
from launcher.validate.exchange import together
from launcher.validate.routes import COMPLETIONS, OPENINGS, Route, on_both, persistent

LENGTH = 12
HOT = 1.8


async def stream(context: CheckContext, route: Route) -> str:
    """The pieces of a stream must form the whole answer, with its finish_reason and usage."""
    text, whole = await route.opening(context, 4, max_tokens=LENGTH)
    await persistent(lambda: _equal(context, route, text, whole, {}))
    answer = text_of(whole)
    if route.stop in context.needed and len(answer) > 6:
        stop = answer[3:6]
        cut = await route.ask(context, text, max_tokens=LENGTH, stop=[stop])
        await persistent(lambda: _equal(context, route, text, cut, {"stop": [stop]}))
    return f"{answer!r} piece by piece"


async def stream_sampled(context: CheckContext, route: Route) -> str:
    """With a seed, the pieces of a sampled stream must form the sampled answer."""
    sampled: dict[str, Json] = {"temperature": HOT, "seed": 1}
    both = [await route.attempt(context, OPENINGS[0], max_tokens=LENGTH, **sampled) for _ in range(2)]
    if not all(response.ok for response in both):
        raise NotApplicable(f"temperature {HOT:g} with a seed is refused with HTTP {both[1].status}")
    one, again = [text_of(response.body) for response in both]
    if one != again:
        raise NotApplicable("the server gives other answers for the same seed")

    async def attempt() -> str:
        events = await _events(context, route, OPENINGS[0], sampled)
        if (joined := "".join(_pieces(events, route))) != one:
            raise Failure(f"seed=1 at temperature {HOT:g} gives {joined!r} as a stream, {one!r} as a whole")
        return f"{one!r} piece by piece"

    return await persistent(attempt)


async def streams_apart(context: CheckContext, route: Route) -> str:
    """Streams at the same time must each have the pieces of their own answer."""
    texts = (context.settings.prompt, *OPENINGS)
    wholes = [text_of(await route.ask(context, text, max_tokens=LENGTH)) for text in texts]

    async def attempt() -> str:
        several = await together([_events(context, route, text, {}) for text in texts])
        for text, whole, events in zip(texts, wholes, several, strict=True):
            if (joined := "".join(_pieces(events, route))) != whole:
                raise Failure(f"{text!r} gives {joined!r} as one of {len(texts)} streams, {whole!r} alone")
            if len(ids := {event["id"] for event in events if event.get("id")}) > 1:
                raise Failure(f"the events of one stream have {len(ids)} ids")
        return f"{len(texts)} streams at the same time, each with its own pieces"

    return await persistent(attempt)


async def _equal(context: CheckContext, route: Route, text: str, whole: Json, more: dict[str, Json]) -> str:
    events = await _events(context, route, text, more)
    if (fault := check_stream(events)) is not None:
        raise Failure(f"the stream: {fault}")
    roles = {(choice.get("delta") or {}).get("role") for event in events for choice in event["choices"]}
    if odd := roles - {None, "", "assistant"}:
        raise Failure(f"the stream has the role {', '.join(map(repr, odd))}, expected 'assistant'")
    joined = "".join(_pieces(events, route))
    if joined != text_of(whole):
        raise Failure(f"the stream gives {joined!r}, the whole answer is {text_of(whole)!r}")
    finishes = [c.get("finish_reason") for event in events for c in event["choices"] if c.get("finish_reason")]
    expected = whole["choices"][0].get("finish_reason")
    if finishes != ([expected] if expected else []):
        raise Failure(f"the stream has the finish reasons {finishes}, the whole answer {expected!r}")
    usages = [event["usage"] for event in events if event.get("usage")]
    if not usages:
        raise Doubt("stream_options.include_usage gave no usage")
    if whole.get("usage") is not None and usage_of({"usage": usages[-1]}) != usage_of(whole):
        raise Failure(f"the stream's usage is {usages[-1]}, that of the whole answer {whole['usage']}")
    return joined


async def _events(context: CheckContext, route: Route, text: str, more: dict[str, Json]) -> Sequence[Json]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": context.endpoint.model, **route.body(text, max_tokens=LENGTH, **more), **options}
    exchange, response = await context.ask(Request(route.path, body))
    if not response.ok or response.events is None:
        raise Failure(f"stream=true answered HTTP {response.status} without events", exchange)
    return exchange.events


def _pieces(events: Sequence[Json], route: Route) -> Iterator[str]:
    for event in events:
        for choice in event["choices"]:
            found = choice.get("text") if route is COMPLETIONS else (choice.get("delta") or {}).get("content")
            yield found or ""


CHECKS = (
    *on_both(
        "streams_apart",
        "streams apart",
        streams_apart,
        Family.stream,
        "streams at the same time each have the pieces of their own answer",
        "answers have parts of those to other samples",
        "no stream: leave out the adapter stream_coalesce; evaluate.concurrency=1",
        need=lambda route: Capability.stream,
    ),
    *on_both(
        "stream",
        "stream",
        stream,
        Family.stream,
        "the pieces of a stream form the whole answer, with its finish_reason and usage, also at a stop string",
        "adapters that stream give other answers than those that do not",
        "no stream: leave out the adapter stream_coalesce",
        need=lambda route: Capability.stream,
    ),
    *on_both(
        "stream_sampled",
        "stream sampled",
        stream_sampled,
        Family.stream,
        "with a seed, the pieces of a sampled stream form the sampled answer",
        "adapters that stream sample by other settings than the task's",
        "no stream: leave out the adapter stream_coalesce",
        need=lambda route: Capability.stream,
    ),
)
