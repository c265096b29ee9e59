"""Checks of completions and chats: answers, token counts, repeatability, and parameters per request."""

from __future__ import annotations

from launcher.core.responses import STOPPED, error_of
from launcher.core.types import Json
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    NotApplicable,
    expect,
    text_of,
    usage_of,
)
from launcher.validate.divergence import ALTERNATIVES, Divergence, divergence, scored_tokens
from launcher.validate.exchange import together
from launcher.validate.rounding import tolerance

NO_CHAT_TEMPLATE = "no_chat_template"
"""The code of our API's refusal of a chat."""
REPEATS = 4
GREEDY_TOKENS = 12


async def completion(context: CheckContext) -> str:
    body = await context.complete()
    choice = body["choices"][0]
    if not isinstance(choice["text"], str):
        raise Failure(f"choices[0].text is {choice['text']!r}, expected a string")
    finish = choice.get("finish_reason")
    if finish not in (*STOPPED, "length", None):
        raise Failure(f"finish_reason is {finish!r}, expected stop or length")
    return "; ".join([f"answered {choice['text']!r} ({finish})", *sorted(context.notes)])


async def chat(context: CheckContext) -> str:
    """A chat is answered; a base model that is only served, or checked, may refuse it for want of a template."""
    messages = [{"role": "user", "content": "7+5="}]
    asked: dict[str, Json] = {"messages": messages, "max_tokens": 16, "temperature": 0}
    if context.endpoint.is_builtin and context.needed == frozenset(Capability):
        response = await context.attempt("/v1/chat/completions", asked)
        if response.status == 400 and error_of(response.body).get("code") == NO_CHAT_TEMPLATE:
            raise NotApplicable("the model has no chat template, so that every chat is refused with HTTP 400")
    body = await context.post("/v1/chat/completions", asked)
    message = body["choices"][0]["message"]
    if message["role"] != "assistant" or not isinstance(message.get("content"), str | None):
        raise Failure(f"choices[0].message is {message!r}, expected role assistant and text")
    return f"answered {message.get('content')!r}"


async def token_accounting(context: CheckContext) -> str:
    """``usage`` must equal the number of tokens in ``logprobs`` and, for the prompt, in ``/tokenize``."""
    body = await context.complete(logprobs=1, max_tokens=6)
    usage, choice = usage_of(body), body["choices"][0]
    listed = len(choice["logprobs"]["tokens"]) if choice.get("logprobs") else None
    expect("usage.total_tokens", usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
    if listed is not None:
        expect("usage.completion_tokens", usage["completion_tokens"], listed)
    if choice.get("finish_reason") == "length":
        expect("usage.completion_tokens with finish_reason length", usage["completion_tokens"], 6)
    counted = await _prompt_tokens(context)
    if counted is not None:
        expect("usage.prompt_tokens", usage["prompt_tokens"], counted)
    return f"{usage['prompt_tokens']} prompt + {usage['completion_tokens']} generated tokens"


async def _prompt_tokens(context: CheckContext) -> int | None:
    """Count the prompt's tokens with ``/tokenize``; only built-in servers are sure to have it."""
    if not context.endpoint.is_builtin:
        return None
    response = await context.ask.post("/tokenize", {"prompt": context.settings.prompt})
    return len(response.body["tokens"]) if response.ok else None


async def greedy_repeats(context: CheckContext) -> str:
    """The same greedy request, alone and then several at a time, must give the same text.

    A model rounds differently in a batch of another size. So an answer may diverge where two tokens are closer than
    the tolerance; the texts after that are not compared.
    """
    alone = await greedy(context)
    several = await together([greedy(context) for _ in range(REPEATS)])
    divergences = [found for body in several if (found := await near_tie(context, alone, body)) is not None]
    if not divergences:
        return f"{REPEATS + 1} times the same text"
    accepted = await tolerance(context)
    return (
        f"{len(divergences)} of {REPEATS} answers diverge at a near-tie: {divergences[0]}; the tolerance is {accepted}"
    )


async def greedy(context: CheckContext, **more: Json) -> Json:
    """Request a greedy answer with the likeliest alternatives, or without them if the server has none."""
    try:
        return await context.complete(max_tokens=GREEDY_TOKENS, logprobs=ALTERNATIVES, **more)
    except Failure as failure:
        if failure.failed:
            raise
        return await context.complete(max_tokens=GREEDY_TOKENS, **more)


async def near_tie(context: CheckContext, one: Json, other: Json) -> Divergence | None:
    """Return where two greedy answers diverge within the tolerance; None where they are equal.

    Raises `Failure` where they differ in any other way.
    """
    if text_of(one) == text_of(other):
        return None
    differ = f"temperature 0 gave {text_of(one)!r} and {text_of(other)!r}"
    first, second = scored_tokens(one), scored_tokens(other)
    if first is None or second is None:
        raise Failure(f"{differ}; without log-probabilities, both texts must be equal")
    found, accepted = divergence(first, second), await tolerance(context)
    if found is None:
        raise Failure(f"{differ} from the same tokens")
    if found.gap is None or not found.gap <= accepted.value:
        raise Failure(f"{differ}: {found}; the tolerance is {accepted}")
    return found


async def own_parameters(context: CheckContext) -> str:
    """Concurrent requests must each keep their own limits."""
    limits = (1, 3, 7, 2, 5)
    bodies = await together([context.complete(max_tokens=n) for n in limits])
    for limit, body in zip(limits, bodies, strict=True):
        used, reason = usage_of(body)["completion_tokens"], body["choices"][0].get("finish_reason")
        if used > limit or (reason == "length" and used != limit):
            raise Failure(f"max_tokens={limit} among others gave {used} tokens with finish_reason {reason}")
    return f"max_tokens {', '.join(map(str, limits))} at the same time, each kept"


async def stop_trimmed(context: CheckContext) -> str:
    """A stop string from the model's own text must end the answer, and must not be part of it."""
    for _ in range(REPEATS):
        whole = await greedy(context)
        text = text_of(whole)
        if len(text) < 2:
            raise NotApplicable(f"the model's answer {text!r} is too short to cut")
        stop = text[1:3]
        body = await greedy(context, stop=stop)
        expected = text[: text.index(stop)]
        if text_of(body) == expected:
            finish = body["choices"][0].get("finish_reason")
            expect("finish_reason at a stop string", "stop" if finish in STOPPED else finish, "stop")
            return f"cut before {stop!r}"
        if not await _diverged_before_stop(context, whole, body):
            raise Failure(f"stop={stop!r} gave {text_of(body)!r}, expected {expected!r}")
    raise NotApplicable(f"in {REPEATS} tries the model never gave the same answer twice, each time at a near-tie")


async def _diverged_before_stop(context: CheckContext, whole: Json, cut: Json) -> bool:
    """Return whether the stopped answer diverges from the whole one at a near-tie before the stop string."""
    first, second = scored_tokens(whole), scored_tokens(cut)
    if first is None or second is None:
        return False
    found = divergence(first[: len(second)], second)
    return found is not None and found.gap is not None and found.gap <= (await tolerance(context)).value


CHECKS = (
    CheckDefinition(
        "completion",
        "completion",
        Capability.completions,
        completion,
        Family.schema,
        expected="a completion answers with a text and a known finish_reason",
        effect="every sample of completions fails",
        remedy="tasks over chat, or a server with /v1/completions",
        base=True,
    ),
    CheckDefinition(
        "chat",
        "chat",
        Capability.chat,
        chat,
        Family.schema,
        expected="a chat answers with a message of the assistant",
        effect="every sample of chats fails",
        remedy="tasks over completions, or a model with a chat template",
        base=True,
    ),
    CheckDefinition(
        "token_accounting",
        "token accounting",
        Capability.completions,
        token_accounting,
        Family.tokens,
        expected="`usage` counts tokens: those of `logprobs`, and those of `/tokenize`",
        effect="token figures, budgets and the search for truncated answers are wrong",
        remedy="a server that counts tokens; budgets by requests",
        after="completion",
    ),
    CheckDefinition(
        "greedy_repeats",
        "greedy repeats",
        Capability.completions,
        greedy_repeats,
        Family.repeatability,
        expected="the same greedy request gives the same text, alone and several at a time, except at near-ties",
        effect="scores change from run to run, and with the load",
        remedy="optimizations.batch_invariant, optimizations.dtype, or the server's own settings of sampling",
        after="completion",
    ),
    CheckDefinition(
        "own_parameters",
        "own parameters",
        Capability.completions,
        own_parameters,
        Family.isolation,
        expected="requests that run together each keep their own limits",
        effect="answers are cut or sampled by the settings of another sample",
        remedy="evaluate.concurrency=1, or another server",
        after="completion",
    ),
    CheckDefinition(
        "stop_trimmed",
        "stop trimmed",
        Capability.stop,
        stop_trimmed,
        Family.limits,
        expected="a stop string ends the text, and is not part of it",
        effect="answers run on into further questions, and exact matches fail",
        remedy="another server; task settings whose extraction reads the first line only",
        after="completion",
    ),
)
