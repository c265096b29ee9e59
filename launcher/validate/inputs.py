"""Checks of inputs at the edge: other scripts, long and empty ones, and those beyond the context."""

from __future__ import annotations

from launcher.core.responses import context_length
from launcher.core.types import Json, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    NotApplicable,
    counts_of,
    text_of,
)
from launcher.validate.routes import CHAT, COMPLETIONS, Route, on_both

SCRIPTS = "naïve Größe, Привет, 東京, 🙂👍🏽, e\u0301"
PLAIN = "nave Gre, , , , e"
"""The same without everything beyond ASCII."""
WORDS = "one two three four five six seven "
LONG = 1000
"""The most tokens of the long prompt."""
MOST = 32_768
"""With a longer context, a prompt beyond it costs too much where the server cuts it."""


async def unicode(context: CheckContext, route: Route) -> str:
    """Characters beyond ASCII must reach the model."""
    plain, whole = [await route.ask(context, text, max_tokens=2) for text in (PLAIN, SCRIPTS)]
    counts = [counts_of(body)["prompt_tokens"] for body in (plain, whole)]
    if counts[1] <= counts[0]:
        raise Failure(f"{SCRIPTS!r} has {counts[1]} prompt tokens, no more than its ASCII alone ({counts[0]})")
    return f"{counts[1]} prompt tokens"


async def unicode_echo(context: CheckContext) -> str:
    """They must come back unchanged, and offsets must count characters."""
    body = await context.complete(prompt=SCRIPTS, echo=True, logprobs=1, max_tokens=1)
    if not text_of(body).startswith(SCRIPTS):
        raise Failure(f"the echo of {SCRIPTS!r} begins with {text_of(body)[: len(SCRIPTS)]!r}")
    return f"{counts_of(body)['prompt_tokens']} tokens of several scripts"


async def whitespace(context: CheckContext) -> str:
    """White space around a prompt is part of it."""
    text = context.settings.prompt.strip()
    bare, padded = [await COMPLETIONS.ask(context, each, max_tokens=1) for each in (text, f"\n\n\t{text}\n\n\t\n")]
    counts = [counts_of(body)["prompt_tokens"] for body in (bare, padded)]
    if counts[1] <= counts[0]:
        raise Doubt(f"white space around a prompt adds {counts[1] - counts[0]} tokens: it does not reach the model")
    return f"it adds {counts[1] - counts[0]} tokens"


async def long_prompt(context: CheckContext, route: Route) -> str:
    """A long prompt within the context must reach the model in full."""
    each = await _each(context, route)
    times = max(4, int(min(LONG, (await _limit(context) or 2 * LONG) * 0.6) / each))
    first, whole = [counts_of(await route.ask(context, WORDS * n, max_tokens=1)) for n in (2, times)]
    expected = first["prompt_tokens"] + (times - 2) * each
    seen = whole["prompt_tokens"]
    if abs(seen - expected) > 0.02 * expected + 3:
        raise Failure(f"a prompt of about {expected:.0f} tokens has {seen}: the server cuts or changes it")
    return f"{seen} prompt tokens"


async def context_limit(context: CheckContext, route: Route) -> str:
    """A prompt beyond the context must be refused: one that is cut loses its examples or its question."""
    limit = await _limit(context)
    if limit is None:
        raise NotApplicable("the server does not say how long its context is (max_model_len in /v1/models)")
    if limit > MOST:
        raise NotApplicable(f"a prompt beyond {limit:,} tokens costs too much")
    text = WORDS * (int(limit / await _each(context, route)) + 3)
    response = await route.attempt(context, text, max_tokens=1)
    if response.ok:
        used = counts_of(response.body)["prompt_tokens"]
        raise Failure(
            f"a prompt beyond the context of {limit} tokens is answered, with {used} prompt tokens: it is cut"
        )
    if response.status >= 500:
        raise Failure(f"a prompt beyond the context is answered with HTTP {response.status}, expected 400")
    return f"a prompt beyond {limit} tokens is refused with HTTP {response.status}"


async def empty(context: CheckContext, route: Route) -> str:
    """An empty prompt is refused or answered; the server must survive it."""
    asked: dict[str, Json] = {"messages": []} if route is CHAT else {"prompt": ""}
    response = await context.attempt(route.path, {**asked, "max_tokens": 1, "temperature": 0})
    if response.status >= 500:
        raise Failure(f"an empty prompt is answered with HTTP {response.status}, expected 400 or an answer")
    await route.ask(context, "a", max_tokens=1)
    return f"HTTP {response.status}"


async def _each(context: CheckContext, route: Route) -> float:
    """Return the tokens of one repetition of `WORDS`."""
    two, four = [counts_of(await route.ask(context, WORDS * n, max_tokens=1))["prompt_tokens"] for n in (2, 4)]
    if four <= two:
        raise Failure(f"usage.prompt_tokens is {two} for a text, {four} for twice the text")
    return (four - two) / 2


async def _limit(context: CheckContext) -> int | None:
    response = await context.ask.get("/v1/models")
    return context_length(response.body, context.endpoint.model) if response.ok else None


CUT = "few-shot examples or the question itself are lost, silently"
CHECKS = (
    *on_both(
        "unicode",
        "unicode",
        unicode,
        Family.input,
        "characters beyond ASCII reach the model",
        "questions in other languages are asked without their characters",
        "the server's tokenizer or its JSON; nothing if no task has such text",
    ),
    CheckDefinition(
        "unicode_echo",
        "unicode echo",
        Capability.prompt_logprobs,
        unicode_echo,
        Family.input,
        expected="they come back unchanged, and offsets count characters",
        effect="log-likelihoods belong to other tokens",
        remedy="a server that normalises no text",
        after="echo_aligned",
    ),
    CheckDefinition(
        "whitespace",
        "white space",
        Capability.completions,
        whitespace,
        Family.input,
        expected="white space around a prompt is part of it",
        effect="prompts that end with a line feed or a space are other prompts than in published scores",
        remedy="a server that strips no prompt",
        after="completion",
    ),
    *on_both(
        "long_prompt",
        "long prompt",
        long_prompt,
        Family.input,
        "a long prompt within the context reaches the model in full",
        CUT,
        "the server's context length (Ollama: num_ctx)",
    ),
    *on_both(
        "context_limit",
        "context limit",
        context_limit,
        Family.input,
        "a prompt beyond the context is refused",
        CUT,
        "fewer examples, or a longer context; the server's option that refuses rather than cuts",
        Severity.warning,
    ),
    *on_both(
        "empty_prompt",
        "empty prompt",
        empty,
        Family.input,
        "an empty prompt is refused or answered, and the server goes on",
        "a sample with an empty text may end the server",
        "nothing if no sample has an empty text",
        Severity.warning,
    ),
)
