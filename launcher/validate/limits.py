"""Checks of what ends an answer: ``max_tokens``, stop strings, and the ``finish_reason`` that says which."""

from __future__ import annotations

import re
import time

from launcher.core.responses import STOPPED
from launcher.core.types import Json
from launcher.validate.check import CheckContext, Doubt, Failure, Family, NotApplicable, counts_of, expect, text_of
from launcher.validate.routes import OPENINGS, Route, on_both, persistent

WHOLE = 12
"""The tokens of the answer that is then cut."""
LONG = 96
SLOW = 6
"""A server that takes this part of its time for one long answer is asked for no more of them."""
ENDS = re.compile(r"(<\|[^<>|]+\|>|</s>|<eos>|<end_of_turn>|\[EOS\]|<\uff5cend\u2581of\u2581sentence\uff5c>)\s*$")
"""End tokens at the end of a text."""
NEVER = "\u2603 never said \u2603"
"""A stop string that no model writes."""


async def max_tokens(context: CheckContext, route: Route) -> str:
    """A smaller limit must cut the same answer earlier."""
    text, whole = await route.opening(context, 4, max_tokens=WHOLE)
    for limit in (1, 4):
        await persistent(lambda limit=limit: _cut(context, route, text, whole, limit))  # type: ignore[misc]
    return "limits of 1 and 4 tokens each cut the answer"


async def _cut(context: CheckContext, route: Route, text: str, whole: Json, limit: int) -> str:
    body = await route.ask(context, text, max_tokens=limit)
    used, cut = counts_of(body)["completion_tokens"], text_of(body).rstrip("\ufffd")
    if used > limit:
        raise Failure(f"max_tokens={limit} gave usage.completion_tokens {used}")
    if not text_of(whole).startswith(cut):
        raise Failure(f"max_tokens={limit} gave {cut!r}, which does not begin the greedy answer {text_of(whole)!r}")
    if len(cut) >= len(text_of(whole)) and counts_of(whole)["completion_tokens"] > limit + 1:
        raise Failure(f"max_tokens={limit} gave the whole answer {cut!r}")
    return cut


async def finish_reason(context: CheckContext, route: Route) -> str:
    """``length`` must mean that the limit cut the answer, and ``stop`` that it ended before."""
    text, whole = await route.opening(context, 4, max_tokens=WHOLE)
    await persistent(lambda: _said(context, route, text, whole))
    used, finish = counts_of(whole)["completion_tokens"], whole["choices"][0].get("finish_reason")
    if finish in STOPPED and used > WHOLE:
        raise Failure(f"{used} tokens for max_tokens={WHOLE} ended with finish_reason {finish!r}")
    if used < WHOLE and finish == "length":
        raise Failure(f"{used} tokens of max_tokens={WHOLE} ended with finish_reason 'length'")
    return f"length after 1 token, {finish} after {used}"


async def _said(context: CheckContext, route: Route, text: str, whole: Json) -> str:
    body = await route.ask(context, text, max_tokens=1)
    finish = body["choices"][0].get("finish_reason")
    if counts_of(whole)["completion_tokens"] > 2 and finish != "length":
        problem = f"an answer that max_tokens=1 cut ended with finish_reason {finish!r}, expected 'length'"
        raise (Doubt if finish is None else Failure)(problem)
    return str(finish)


async def long_answer(context: CheckContext, route: Route) -> str:
    """``finish_reason`` ``length`` must mean that all of a larger ``max_tokens`` were used; no end token is text."""
    said, start = list[str](), time.perf_counter()
    for text in OPENINGS:
        if said and SLOW * (time.perf_counter() - start) > context.settings.timeout_s:
            break
        response = await route.attempt(context, text, max_tokens=LONG)
        if not response.ok:
            raise NotApplicable(f"max_tokens={LONG} is refused with HTTP {response.status}")
        used, finish = counts_of(response.body)["completion_tokens"], response.body["choices"][0].get("finish_reason")
        if finish == "length" and used < LONG:
            raise Failure(
                f"{used} tokens of max_tokens={LONG} ended with finish_reason 'length': another limit applies"
            )
        if finish in STOPPED and (end := ENDS.search(text_of(response.body))):
            raise Doubt(f"the text ends with {end[0]!r}, which ends the answer and is no part of it")
        said.append(f"{used} ({finish})")
    return f"tokens of max_tokens={LONG}: {', '.join(said)}"


async def stop_list(context: CheckContext, route: Route) -> str:
    """Of several stop strings the one that comes first must end the answer, also across tokens."""
    try:
        text, whole = await route.opening(context, WHOLE + 5, max_tokens=WHOLE)
    except NotApplicable:
        text, whole = await route.opening(context, 8, max_tokens=WHOLE)
    answer = text_of(whole)
    early, late = answer[1:5], answer[5:8]
    stops = [NEVER, early, late] if answer.index(late) >= answer.index(early) + len(early) else [NEVER, early]
    found = await persistent(lambda: _stopped(context, route, text, stops, answer))
    last = answer[WHOLE : WHOLE + 3]
    if last and answer.index(last) == WHOLE:  # as many characters as the limit has tokens
        await persistent(lambda: _stopped(context, route, text, [NEVER, last], answer))
    return f"cut before {found!r}"


async def _stopped(context: CheckContext, route: Route, text: str, stops: list[str], answer: str) -> str:
    body = await route.ask(context, text, max_tokens=WHOLE, stop=stops)
    stop = stops[1]
    expected = answer[: answer.index(stop)]
    if text_of(body) != expected:
        raise Failure(f"stop={stops!r} gave {text_of(body)!r}, expected {expected!r} of {answer!r}")
    finish = body["choices"][0].get("finish_reason")
    expect("finish_reason at a stop string", "stop" if finish in STOPPED else finish, "stop")
    return stop


async def stop_in_prompt(context: CheckContext, route: Route) -> str:
    """A stop string that is only in the prompt must not end the answer."""
    text, whole = await route.opening(context, 4, max_tokens=WHOLE)
    stop = next((word for word in text.split() if len(word) > 2 and word not in text_of(whole)), None)
    if stop is None:
        raise NotApplicable("the model's answer repeats every word of the prompt")
    await persistent(lambda: _unstopped(context, route, text, stop, text_of(whole)))
    return f"{stop!r} of the prompt does not end the answer"


async def _unstopped(context: CheckContext, route: Route, text: str, stop: str, answer: str) -> str:
    body = await route.ask(context, text, max_tokens=WHOLE, stop=[stop])
    if text_of(body) != answer:
        raise Failure(f"stop={stop!r}, which only the prompt has, gave {text_of(body)!r}, expected {answer!r}")
    return stop


STOPS = "answers run on into further questions or are empty, and exact matches fail"
REMEDY = "another server; task settings whose extraction reads the first line only"
CHECKS = (
    *on_both(
        "max_tokens",
        "max_tokens",
        max_tokens,
        Family.limits,
        "`max_tokens` cuts the answer, and changes nothing before the cut",
        "answers are cut or run on, so that extractions fail",
        "a server that follows max_tokens; evaluate.max_tokens",
    ),
    *on_both(
        "finish_reason",
        "finish_reason",
        finish_reason,
        Family.limits,
        "`finish_reason` is `length` exactly where the limit cut the answer",
        "truncated answers are scored as wrong ones, silently",
        "another server; evaluate.accept_missing_finish where it is only missing",
    ),
    *on_both(
        "long_answer",
        "long answer",
        long_answer,
        Family.limits,
        "a larger `max_tokens` is followed too, and no end token is part of the text",
        "answers are cut by a limit of the server; or end tokens spoil exact matches",
        "the server's own limit of generated tokens; skip_special_tokens",
    ),
    *on_both(
        "stop_list",
        "stop list",
        stop_list,
        Family.limits,
        "of several stop strings the first one in the answer ends it, also across tokens",
        STOPS,
        REMEDY,
        need=lambda route: route.stop,
    ),
    *on_both(
        "stop_in_prompt",
        "stop in prompt",
        stop_in_prompt,
        Family.limits,
        "a stop string that only the prompt has does not end the answer",
        STOPS,
        REMEDY,
        need=lambda route: route.stop,
    ),
)
