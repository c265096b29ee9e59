"""Scores choices of one token by one request for the next token, in place of an echo of each prompt."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from launcher.core.responses import MERGED
from launcher.core.types import Json, Request, Response, is_object
from launcher.tasks.loglikelihood import NoLogprobs

PLAIN = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
"""What an echo asks for that can be replaced; one with other values, or with further fields, stays an echo."""
OTHERS = frozenset({"model", "prompt", "seed", *PLAIN})
LONGEST_TOKEN = 64
"""A choice of more characters is taken for several tokens, without asking the server."""
MOST_TOKENS = 128
"""The most tokens whose log-probabilities vLLM gives in one answer."""
LEAST = -1000.0
"""Servers write -9999 for minus infinity, and for a value that they do not have."""

Encode = Callable[[str], Awaitable[Sequence[int]]]
"""Returns the token ids of a prompt, with the special tokens that the server adds to it. Raises `NotNextTokens`."""


class NotNextTokens(ValueError):
    """The request stays an echo; the message says why."""


@dataclass(frozen=True)
class NextTokens:
    """A context that several prompts share, and the one token of each that follows it."""

    context: tuple[int, ...]
    choices: tuple[int, ...]


async def next_tokens(request: Request, encode: Encode) -> NextTokens:
    """Return what an echo asks, as a context and a token for each prompt. Raises `NotNextTokens`.

    The tokens are those of each whole prompt. They must be those of the text before the part that counts, and one more.
    So none reaches over the seam, and exactly that one counts.
    """
    prompts, starts = request.body.get("prompt"), request.counted
    fields = {name: request.body.get(name) for name in PLAIN}
    if fields != PLAIN or not request.body.keys() <= OTHERS:
        raise NotNextTokens("the request asks for more than an echo")
    if not isinstance(prompts, Sequence) or not 2 <= len(starts) == len(prompts) <= MOST_TOKENS:
        raise NotNextTokens("there are not several prompts")
    if all(isinstance(prompt, str) for prompt in prompts):
        return await _of_texts(prompts, starts, encode)
    return _of_tokens([tuple(prompt) for prompt in prompts], starts)


async def _of_texts(prompts: Sequence[str], starts: Sequence[int], encode: Encode) -> NextTokens:
    context, longest = prompts[0][: starts[0]], max(len(p) - s for p, s in zip(prompts, starts, strict=True))
    if any(prompt[:start] != context for prompt, start in zip(prompts, starts, strict=True)):
        raise NotNextTokens("the prompts have several contexts")
    if not context or longest > LONGEST_TOKEN:
        raise NotNextTokens("a choice is longer than a token, or has no context")
    before, found = tuple(await encode(context)), list[int]()
    for prompt in prompts:
        tokens = tuple(await encode(prompt))
        if not before or len(tokens) != len(before) + 1 or tokens[:-1] != before:
            raise NotNextTokens("a choice is not one token behind its context")
        found.append(tokens[-1])
    return NextTokens(before, tuple(found))


def _of_tokens(prompts: Sequence[tuple[int, ...]], starts: Sequence[int]) -> NextTokens:
    context = prompts[0][: starts[0]]
    if not context or set(starts) != {len(context)} or any(prompt[:-1] != context for prompt in prompts):
        raise NotNextTokens("a choice is not one token behind its context")
    return NextTokens(context, tuple(prompt[-1] for prompt in prompts))


def tokenize_body(model: str, text: str) -> dict[str, Json]:
    """Return the body of a request to ``/tokenize`` for the tokens of a prompt as the server computes them."""
    return {"model": model, "prompt": text, "add_special_tokens": True}


def token_ids(answer: Response) -> Sequence[int]:
    """Return the token ids of an answer of ``/tokenize``. Raises `NotNextTokens` for any other answer."""
    found = answer.body.get("tokens") if answer.ok and is_object(answer.body) else None
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise NotNextTokens(f"/tokenize gives no list of token ids (HTTP {answer.status})")
    return found


def body_of(model: Json, asked: NextTokens) -> dict[str, Json]:
    """Return the body of a request for the log-probabilities of these tokens, and of the most likely one."""
    return {
        "model": model,
        "prompt": list(asked.context),
        "max_tokens": 1,
        "temperature": 0,
        "repetition_penalty": 1.0,
        "logprobs": 1,
        "logprob_token_ids": sorted(set(asked.choices)),
        "return_tokens_as_token_ids": True,
    }


@dataclass(frozen=True)
class Found:
    """The log-probability of each choice; ``best`` is that of the most likely token, whose name is ``sampled``."""

    values: Sequence[float]
    sampled: str
    best: float


def found_in(body: Json, asked: NextTokens) -> Found:
    """Read the answer to `body_of`. Raises `NoLogprobs` unless it has a log-probability for each of the tokens."""
    choices = body.get("choices") if is_object(body) else None
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    logprobs = choice.get("logprobs") if is_object(choice) else None
    sampled, top = (_only(logprobs.get(name) if is_object(logprobs) else None) for name in ("tokens", "top_logprobs"))
    usage = body.get("usage")
    read = usage.get("prompt_tokens") if is_object(usage) else None
    if read not in (None, len(asked.context)):
        raise NoLogprobs(f"the server read {read} tokens of a context of {len(asked.context)}")
    values = [_value(top, _name(token)) for token in asked.choices]
    best = _value(top, str(sampled))
    if max(values) > best:
        raise NoLogprobs("the token that was sampled is not the most likely one")
    return Found(values, str(sampled), best)


def _name(token: int) -> str:
    return f"token_id:{token}"


def _only(values: Json) -> Json:
    """Return the only entry of a list."""
    if not isinstance(values, list) or len(values) != 1:
        raise NoLogprobs("the answer has no log-probabilities of one token")
    return values[0]


def _value(top: Json, name: str) -> float:
    value = top.get(name) if is_object(top) else None
    if not isinstance(value, int | float) or not math.isfinite(value) or value < LEAST:
        raise NoLogprobs(f"the answer has no log-probability of {name}")
    return float(value)


def as_echo(request: Request, asked: NextTokens, answer: Mapping[str, Json], found: Found) -> dict[str, Json]:
    """Return the answer as one to the echo: that of each prompt, whose context is one entry without a value."""
    generated = answer["choices"][0].get("text") or ""
    prompts = request.body["prompt"]
    pairs = enumerate(zip(prompts, request.counted, asked.choices, found.values, strict=True))
    choices = [
        _choice(index, prompt, start, generated, _name(token), value, len(asked.context), found)
        for index, (prompt, start, token, value) in pairs
    ]
    return {**answer, "choices": choices}


def _choice(
    index: int, prompt: Json, start: int, generated: str, name: str, value: float, context: int, found: Found
) -> dict[str, Json]:
    is_text = isinstance(prompt, str)
    before, last = (prompt[:start], prompt[start:]) if is_text else ("", name)
    text = prompt + generated if is_text else generated
    end = len(prompt) if is_text else 0
    own = last if name != found.sampled else found.sampled
    tops = {own: value, found.sampled: found.best}
    logprobs = {
        "tokens": [before, last, found.sampled],
        "token_logprobs": [None, value, found.best],
        "top_logprobs": [None, tops, {found.sampled: found.best}],
        "text_offset": [0, start if is_text else 0, end],
        MERGED: context,
    }
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": "length"}
