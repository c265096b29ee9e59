"""Checks of how tokens are chosen: greedy, by hidden defaults, by seed and temperature, and several at once."""

from __future__ import annotations

from launcher.core.prompt_logprobs import SPECIAL
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
    expect,
    text_of,
)
from launcher.validate.divergence import ALTERNATIVES, scored_tokens
from launcher.validate.exchange import together
from launcher.validate.rounding import tolerance
from launcher.validate.routes import COMPLETIONS, Route, on_both, persistent
from launcher.validate.scores import text_of_tokens

OPENAI_NEUTRAL: dict[str, Json] = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
NEUTRAL: dict[str, Json] = {**OPENAI_NEUTRAL, "repetition_penalty": 1}
"""What changes nothing in a greedy answer. vLLM takes other values from a model's ``generation_config.json``."""
REPETITIVE = "one two three one two three one two three one two"
"""A prompt whose likely continuation repeats it, so that a penalty shows."""
LENGTH = 16
HOT = 1.8
"""The temperature at which answers must differ."""
DRAWS = 6
TINY = 1e-4
SHORT = 8
"""The tokens of a draw; so many are hardly ever equal at that temperature."""


async def chat_repeats(context: CheckContext, route: Route) -> str:
    """The same greedy request must give the same answer, alone and several at a time."""

    async def attempt() -> str:
        alone = text_of(await route.ask(context, context.settings.prompt))
        several = await together([route.ask(context, context.settings.prompt) for _ in range(3)])
        for body in several:
            if text_of(body) != alone:
                raise Failure(f"temperature 0 gave {alone!r} and {text_of(body)!r}")
        return "4 times the same text"

    return await persistent(attempt)


async def greedy_is_best(context: CheckContext) -> str:
    """At temperature 0 each token must be the likeliest one: a hidden penalty or temperature shows here."""
    body = await _neutral(context, COMPLETIONS, REPETITIVE, logprobs=ALTERNATIVES)
    steps, accepted = scored_tokens(body), await tolerance(context)
    if not steps:
        raise NotApplicable("the server gives no alternatives to a generated token")
    for at, step in enumerate(steps):
        best = max(step.top, key=lambda token: step.top[token], default=step.token)
        behind = step.top.get(best, step.logprob) - step.logprob
        if not behind <= accepted.value:
            raise Failure(
                f"temperature 0 chose {step.token!r} as token {at + 1}, {behind:.2g} nats behind {best!r}; "
                f"the tolerance is {accepted}"
            )
    return f"each of {len(steps)} tokens is the likeliest"


async def hidden_defaults(context: CheckContext, route: Route) -> str:
    """A greedy request must give the same as one with every neutral value written out."""

    async def attempt() -> str:
        plain = text_of(await route.ask(context, REPETITIVE, max_tokens=LENGTH))
        neutral = text_of(await _neutral(context, route, REPETITIVE))
        if plain != neutral:
            raise Failure(
                f"a greedy request gives {plain!r}, with repetition_penalty=1 and other neutral values {neutral!r}: "
                "the server has sampling defaults of its own, such as a model's generation_config.json"
            )
        return "the server's own defaults change no greedy answer"

    return await persistent(attempt)


async def _neutral(context: CheckContext, route: Route, text: str, **more: Json) -> Json:
    """Ask with neutral values; with OpenAI's own only if the server refuses another one."""
    body = route.body(text, max_tokens=LENGTH, **more)
    try:
        return await context.post(route.path, body | NEUTRAL)
    except Failure as failure:
        if not failure.refused:
            raise
    return await context.post(route.path, body | OPENAI_NEUTRAL)


async def seed(context: CheckContext, route: Route) -> str:
    """The same seed must give the same answer, and other seeds other answers."""
    sampled = {"temperature": HOT, "max_tokens": SHORT}

    async def attempt() -> str:
        one, again = [text_of(await route.ask(context, REPETITIVE, **sampled, seed=1)) for _ in range(2)]
        if one != again:
            raise Failure(f"seed=1 gave {one!r} and {again!r}")
        return one

    one = await persistent(attempt)
    await persistent(lambda: _among_others(context, route, one))
    others = [text_of(await route.ask(context, REPETITIVE, **sampled, seed=n)) for n in (2, 3, 4)]
    if set(others) == {one}:
        raise Failure(f"4 seeds at temperature {HOT:g} all gave {one!r}")
    return "the same seed the same text, other seeds other texts"


async def _among_others(context: CheckContext, route: Route, alone: str) -> str:
    asked = [route.ask(context, REPETITIVE, temperature=HOT, max_tokens=SHORT, seed=1) for _ in range(3)]
    for body in await together(asked):
        if text_of(body) != alone:
            raise Failure(f"seed=1 gave {alone!r} alone and {text_of(body)!r} among others")
    return alone


async def top_p(context: CheckContext, route: Route) -> str:
    """With a tiny ``top_p`` only the likeliest token is left, so that the answer is the greedy one."""
    first = await route.attempt(context, REPETITIVE, temperature=HOT, top_p=TINY, max_tokens=SHORT)
    if 400 <= first.status < 500:
        raise Doubt(f"temperature {HOT:g} with top_p={TINY:g} is refused with HTTP {first.status}")

    async def attempt() -> str:
        greedy = text_of(await route.ask(context, REPETITIVE, max_tokens=SHORT))
        sampled = text_of(await route.ask(context, REPETITIVE, temperature=HOT, top_p=TINY, max_tokens=SHORT))
        if sampled != greedy:
            raise Failure(f"top_p={TINY:g} at temperature {HOT:g} gave {sampled!r}, the greedy answer is {greedy!r}")
        return "a tiny top_p gives the greedy answer"

    return await persistent(attempt)


async def temperature(context: CheckContext, route: Route) -> str:
    """At a high temperature repeated requests must give different answers."""
    first = await route.attempt(context, REPETITIVE, temperature=HOT, max_tokens=SHORT)
    if 400 <= first.status < 500:
        raise Doubt(f"temperature {HOT:g} is refused with HTTP {first.status}, so that it cannot be tested")
    alone = [await route.ask(context, REPETITIVE, temperature=HOT, max_tokens=SHORT) for _ in range(DRAWS // 2)]
    asked = [route.ask(context, REPETITIVE, temperature=HOT, max_tokens=SHORT) for _ in range(DRAWS // 2)]
    for bodies in (alone, await together(asked)):
        texts = {text_of(body) for body in bodies}
        if len(texts) == 1:
            raise Failure(f"{len(bodies)} requests at temperature {HOT:g} all gave {next(iter(texts))!r}")
    return f"different answers to {DRAWS} requests at temperature {HOT:g}"


async def choices(context: CheckContext, route: Route) -> str:
    """``n`` must give so many answers, drawn separately, and count the tokens of all."""
    bodies = [await route.ask(context, REPETITIVE, temperature=HOT, max_tokens=SHORT, n=3) for _ in range(2)]
    texts = [{text_of(body, i) for i in range(3)} for body in bodies]
    if all(len(each) == 1 for each in texts):
        raise Failure(f"n=3 at temperature {HOT:g} gave three times {text_of(bodies[0])!r}")
    for body in bodies:  # vLLM refuses several greedy answers
        cut = sum(choice.get("finish_reason") == "length" for choice in body["choices"])
        if counts_of(body)["completion_tokens"] < cut * SHORT:
            expect("usage.completion_tokens for n=3", counts_of(body)["completion_tokens"], "the tokens of all three")
    await _own_scores(context, route)
    return f"{len(texts[0])} different answers to one request with n=3"


async def _own_scores(context: CheckContext, route: Route) -> None:
    """The log-probabilities of each answer must be its own, where the server gives them."""
    asked: dict[str, Json] = {"logprobs": 1} if route is COMPLETIONS else {"logprobs": True}
    response = await route.attempt(context, REPETITIVE, temperature=1, max_tokens=SHORT, n=3, **asked)
    for at, choice in enumerate(response.body["choices"] if response.ok else ()):
        lists = choice.get("logprobs") or {}
        tokens = lists.get("tokens") or [entry["token"] for entry in lists.get("content") or ()]
        if tokens:
            text_of_tokens([token for token in tokens if not SPECIAL.fullmatch(token)], text_of(response.body, at))


CHECKS = (
    *(
        check
        for check in on_both(
            "repeats",
            "repeats",
            chat_repeats,
            Family.repeatability,
            "the same greedy chat gives the same answer, alone and several at a time",
            "scores change from run to run, and with the load",
            "optimizations.batch_invariant, optimizations.dtype, or the server's own settings of sampling",
        )
        if check.need is Capability.chat
    ),
    CheckDefinition(
        "greedy_is_best",
        "greedy is best",
        Capability.completions,
        greedy_is_best,
        Family.repeatability,
        expected="at temperature 0 each token is the likeliest, with every penalty off",
        effect="greedy answers are not the model's own; log-likelihoods say which choice is greedy, wrongly",
        remedy="the server's sampling settings: no penalty, no temperature, no bias of its own",
        after="completion",
    ),
    *on_both(
        "hidden_defaults",
        "hidden defaults",
        hidden_defaults,
        Family.repeatability,
        "a greedy request gives the same as one with `repetition_penalty=1` and other neutral values",
        "greedy answers differ from those of other servers and of published scores",
        "vLLM: --generation-config vllm; any server: the adapter payload with add.repetition_penalty=1",
        Severity.warning,
    ),
    *on_both(
        "seed",
        "seed",
        seed,
        Family.repeatability,
        "the same seed gives the same answer, other seeds give others",
        "sampled scores cannot be repeated, or repeats are no independent draws",
        "more evaluate.repeats; a server that follows seed",
        Severity.warning,
        need=lambda route: Capability.sampling,
    ),
    *on_both(
        "top_p",
        "top_p",
        top_p,
        Family.repeatability,
        "with a tiny `top_p` the answer is the greedy one",
        "sampled answers are those of other settings than were asked for",
        "a server that follows top_p",
        Severity.warning,
        need=lambda route: Capability.sampling,
    ),
    *on_both(
        "temperature",
        "temperature",
        temperature,
        Family.repeatability,
        "repeated requests at a high temperature give different answers",
        "repeats and pass@k count one answer several times",
        "the cache in front of the server; a server that follows temperature",
        need=lambda route: Capability.sampling,
    ),
    *on_both(
        "choices",
        "choices",
        choices,
        Family.repeatability,
        "`n` gives so many answers, drawn separately, and `usage` counts all",
        "pass@k counts one answer several times",
        "evaluate.repeats instead of n",
        need=lambda route: Capability.choices,
    ),
)
