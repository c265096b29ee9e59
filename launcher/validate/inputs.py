"""Checks of inputs at the edge: other scripts, long and empty ones, and those beyond the context."""

from __future__ import annotations

import time

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
CODE = "if (a < b && c > 'd') {\r\n\te = \"f\";\r\n}  // <g>&amp;\r\n\tdone"
WORDS = "one two three four five six seven "
LONG = (1_100, 2_200, 4_400)
"""The tokens of the long prompts: servers cut at 1,024, 2,048 or 4,096 by default."""
FAST = 20
"""The next one is sent where the last took less than this part of the time that it may take."""
NEARLY = 0.9
"""The share of the context that a long prompt may fill."""
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


async def code_echo(context: CheckContext) -> str:
    """Line ends, tabs and markup must come back unchanged."""
    body = await context.complete(prompt=CODE, echo=True, logprobs=1, max_tokens=1)
    if not text_of(body).startswith(CODE):
        raise Failure(f"the echo of {CODE!r} begins with {text_of(body)[: len(CODE)]!r}")
    return f"{counts_of(body)['prompt_tokens']} tokens of code"


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
    each, limit = await _each(context, route), await _limit(context) or 2 * LONG[0]
    first = counts_of(await route.ask(context, WORDS * 2, max_tokens=1))["prompt_tokens"]
    seen = first
    for size in LONG:
        times = max(4, 2 + int((min(size, limit * NEARLY) - first) / each))
        expected, start = first + (times - 2) * each, time.perf_counter()
        seen = counts_of(await route.ask(context, WORDS * times, max_tokens=1))["prompt_tokens"]
        if abs(seen - expected) > 0.02 * expected + 3:
            raise Failure(f"a prompt of about {expected:.0f} tokens has {seen}: the server cuts or changes it")
        if size > limit or FAST * (time.perf_counter() - start) > context.settings.timeout_s:
            break
    return f"{seen} prompt tokens"


async def context_room(context: CheckContext, route: Route) -> str:
    """A prompt without room for ``max_tokens`` is refused or answered shortly, and never cut to make room."""
    limit = await _limit(context)
    if limit is None:
        raise NotApplicable("the server does not say how long its context is (max_model_len in /v1/models)")
    if limit > MOST:
        raise NotApplicable(f"a prompt of {limit:,} tokens costs too much")
    each = await _each(context, route)
    first = counts_of(await route.ask(context, WORDS * 2, max_tokens=1))["prompt_tokens"]
    times = 2 + int((limit - 2 - first) / each)
    response = await route.attempt(context, WORDS * times, max_tokens=int(2 * each) + 2)
    if response.status >= 500:
        raise Failure(f"max_tokens beyond the context is answered with HTTP {response.status}, expected 400")
    if not response.ok:
        return f"refused with HTTP {response.status}"
    seen, expected = counts_of(response.body)["prompt_tokens"], first + (times - 2) * each
    if seen < 0.95 * expected - 3:
        raise Failure(f"a prompt of about {expected:.0f} tokens is cut to {seen} to make room for max_tokens")
    return f"{seen} prompt tokens, none cut"


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
        "code_echo",
        "code echo",
        Capability.prompt_logprobs,
        code_echo,
        Family.input,
        expected="line ends, tabs and markup come back unchanged",
        effect="log-likelihoods of code and tables are those of another text, or its samples fail",
        remedy="a server that changes no prompt; a tokenizer without normalisation",
        severity=Severity.warning,
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
        "context_room",
        "context room",
        context_room,
        Family.input,
        "no prompt is cut to make room for `max_tokens`",
        CUT,
        "a smaller max_tokens; the server's option that refuses rather than cuts",
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
