"""Checks that requests do not change each other: concurrent ones, several prompts in one, and earlier ones."""

from __future__ import annotations

from typing import Any

from launcher.core.types import Json
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    NotApplicable,
    counts_of,
    text_of,
)
from launcher.validate.exchange import together
from launcher.validate.rounding import tolerance
from launcher.validate.routes import COMPLETIONS, OPENINGS, Route, on_both, persistent

HOT: dict[str, Json] = {"temperature": 1.9, "max_tokens": 16}
"""A request whose parameters would spoil those of others."""


async def mixed_requests(context: CheckContext, route: Route) -> str:
    """Requests with different parameters must give the same together as each alone."""
    asked = _mixture(context, route)

    async def attempt() -> str:
        alone = [_seen(await route.ask(context, text, **more)) for text, more in asked]
        hot = [_ignored(context, route) for _ in range(2)]
        mixed = await together([hot[0], *(route.ask(context, text, **more) for text, more in asked), hot[1]])
        for (text, more), one, other in zip(asked, alone, mixed[1:-1], strict=True):
            if one != _seen(other):
                raise Failure(f"{text!r} with {more} gave {one} alone and {_seen(other)} among others")
        return f"{len(asked)} requests give the same alone and together"

    return await persistent(attempt)


async def _ignored(context: CheckContext, route: Route) -> Json:
    """Send a hot request, which a server may refuse."""
    return (await route.attempt(context, OPENINGS[0], **HOT)).body


def _mixture(context: CheckContext, route: Route) -> list[tuple[str, dict[str, Json]]]:
    first, *others = OPENINGS
    asked: list[tuple[str, dict[str, Json]]] = [
        (first, {"max_tokens": 2}),
        (others[0], {"max_tokens": 9}),
        (others[1], {"max_tokens": 5, "frequency_penalty": 2}),
        (context.settings.prompt, {"max_tokens": 4}),
        (first, {"max_tokens": 12}),
    ]
    if route.stop in context.needed:
        asked.append((first, {"max_tokens": 12, "stop": ["a", "e"]}))
    return asked


def _seen(body: Json) -> dict[str, Json]:
    """Return what is compared of an answer."""
    usage = counts_of(body)
    return {
        "text": text_of(body),
        "finish_reason": body["choices"][0].get("finish_reason"),
        "tokens": (usage["prompt_tokens"], usage["completion_tokens"]),
    }


async def prompts_together(context: CheckContext) -> str:
    """Several prompts in one request must give, in order, what each gives alone."""
    prompts = [OPENINGS[0], "7+5=", context.settings.prompt, OPENINGS[2] + " and so on"]

    async def attempt() -> str:
        several = await context.complete(prompt=prompts, max_tokens=4)
        placed = sorted(several["choices"], key=lambda choice: int(choice["index"]))
        for prompt, choice in zip(prompts, placed, strict=True):
            alone = text_of(await context.complete(prompt=prompt, max_tokens=4))
            if choice["text"] != alone:
                raise Failure(f"{prompt!r} gave {alone!r} alone and {choice['text']!r} among {len(prompts)} prompts")
        return f"{len(prompts)} prompts in one request as each alone"

    return await persistent(attempt)


async def scores_together(context: CheckContext) -> str:
    """Several prompts in one request must get the scores that each gets alone."""
    prompts = ["7+5=", context.settings.prompt, OPENINGS[0]]
    asked = {"echo": True, "logprobs": 1, "max_tokens": 1}
    several = await context.complete(prompt=prompts, **asked)
    placed = sorted(several["choices"], key=lambda choice: int(choice["index"]))
    accepted = await tolerance(context)
    for prompt, choice in zip(prompts, placed, strict=True):
        alone = (await context.complete(prompt=prompt, **asked))["choices"][0]["logprobs"]["token_logprobs"]
        rows = list(zip(alone[1:-1], choice["logprobs"]["token_logprobs"][1:-1], strict=True))
        complaint = accepted.violation([abs(one - other) for one, other in rows] or [0.0])
        if complaint is not None:
            raise Failure(
                f"{prompt!r} has other log-probabilities among {len(prompts)} prompts than alone: {complaint}"
            )
    return f"{len(prompts)} prompts score the same together and alone"


async def token_prompts(context: CheckContext) -> str:
    """A prompt of token ids must give what its text gives."""
    response = await context.ask.post("/tokenize", {"model": context.endpoint.model, "prompt": context.settings.prompt})
    ids = response.body.get("tokens") if response.ok and isinstance(response.body, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
        raise NotApplicable("the server has no /tokenize")

    async def attempt() -> str:
        one, other = [await context.complete(prompt=prompt) for prompt in (context.settings.prompt, ids)]
        if _seen(one) != _seen(other):
            raise Failure(f"the prompt gave {_seen(one)}, its token ids {_seen(other)}")
        return f"{len(ids)} token ids give the same as their text"

    return await persistent(attempt)


async def stale_answers(context: CheckContext, route: Route) -> str:
    """An answer must be that of its own request: a cache may know requests by too little."""
    texts = ("7+5=", f"{context.settings.prompt} {OPENINGS[0]}", OPENINGS[1], f"{OPENINGS[2]} {OPENINGS[0]}")
    sizes = [counts_of(await route.ask(context, text, max_tokens=1))["prompt_tokens"] for text in texts]
    if len(set(sizes)) == 1:
        raise Failure(f"{len(texts)} prompts of different lengths all have {sizes[0]} prompt tokens")
    again = [counts_of(await route.ask(context, text, max_tokens=1))["prompt_tokens"] for text in reversed(texts)]
    if again[::-1] != sizes:
        raise Failure(f"the same prompts had {sizes} prompt tokens and, in reverse order, {again[::-1]}")
    bodies = [await route.ask(context, OPENINGS[0], max_tokens=n) for n in (1, 9, 2)]
    counts = [counts_of(body)["completion_tokens"] for body in bodies]
    cut = bodies[1]["choices"][0].get("finish_reason") == "length"
    if counts[0] > 1 or counts[2] > 2 or (cut and counts[1] < 9):
        raise Failure(f"max_tokens of 1, 9 and 2 gave {', '.join(map(str, counts))} tokens")
    await _features(context, route)
    return "each answer follows its own request"


async def _features(context: CheckContext, route: Route) -> None:
    """The same prompt with and without log-probabilities, then for one and for two answers."""
    asked: dict[str, Any] = {"logprobs": 1} if route is COMPLETIONS else {"logprobs": True}
    listed = await route.attempt(context, OPENINGS[0], **asked)
    plain = await route.ask(context, OPENINGS[0])
    if plain["choices"][0].get("logprobs"):
        raise Failure("a request without logprobs has those of the one before")
    if listed.ok and listed.body["choices"][0].get("logprobs") is None and await _has_logprobs(context, route):
        raise Failure("a request with logprobs has the answer of one without")


async def _has_logprobs(context: CheckContext, route: Route) -> bool:
    asked: dict[str, Any] = {"logprobs": 1} if route is COMPLETIONS else {"logprobs": True}
    body = (await route.attempt(context, "a text that is asked for the first time", **asked)).body
    return bool(body["choices"][0].get("logprobs"))


OTHERS = "answers depend on what else the server does at the time"
CHECKS = (
    *on_both(
        "mixed_requests",
        "mixed requests",
        mixed_requests,
        Family.isolation,
        "requests with different parameters give the same together as each alone",
        OTHERS,
        "evaluate.concurrency=1, or another server",
    ),
    CheckDefinition(
        "prompts_together",
        "prompts together",
        Capability.prompts,
        prompts_together,
        Family.isolation,
        expected="several prompts in one request give, in order, what each gives alone",
        effect=OTHERS,
        remedy="tasks with one prompt per request; another server",
        after="completion",
    ),
    CheckDefinition(
        "scores_together",
        "scores together",
        Capability.prompt_logprobs,
        scores_together,
        Family.isolation,
        expected="several prompts in one request have the log-probabilities of each alone",
        effect="log-likelihoods depend on the other choices of a question",
        remedy="another server; padding and masks of a batch are wrong",
        after="echo_aligned",
        route=Capability.prompts,
    ),
    CheckDefinition(
        "token_prompts",
        "token prompts",
        Capability.token_prompts,
        token_prompts,
        Family.isolation,
        expected="a prompt of token ids gives what its text gives",
        effect="tasks that send token ids ask another question",
        remedy="tasks that send text",
        after="completion",
    ),
    *on_both(
        "stale_answers",
        "stale answers",
        stale_answers,
        Family.isolation,
        "each answer follows its own prompt, limit and log-probabilities, not those of earlier requests",
        "samples are scored by the answers of other samples",
        "the cache in front of the server",
    ),
)
