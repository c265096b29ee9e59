"""Reads the log-likelihood of a continuation out of an echoed completion."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from launcher.core.prompt_logprobs import NOT_GIVEN, Misaligned, Span, Spans, aligned, not_echoed
from launcher.core.responses import MERGED
from launcher.core.types import Json, is_object

NOT_STORED = (
    "the log-probabilities of this part of the prompt are not stored; "
    "they are in a run with evaluate.store_prompt_logprobs=true"
)


class NoLogprobs(ValueError):
    """An answer without the log-probabilities of its whole prompt; says what is missing."""


def beginning(prompt: str, continuation: str) -> int:
    """Return where the part of ``prompt`` begins that counts: ``continuation`` and the white space before it.

    lm-evaluation-harness, too, moves white space at the end of a context to the continuation.
    """
    context = prompt[: len(prompt) - len(continuation)]
    return len(context.rstrip()) or len(context)


def loglikelihood(choice: Mapping[str, Json], prompt: str, start: int) -> float:
    """Return the summed natural-log probability of ``prompt[start:]``, given what is before it.

    ``choice`` answers a request with ``echo``, ``logprobs`` and ``max_tokens=1``, as lm-evaluation-harness sends. The
    tokens of the prompt that reach beyond the character ``start`` count; the generated token does not. Where the answer
    names its tokens, they say where each lies in the text, and offsets that contradict them are refused.

    Raises `NoLogprobs` when the answer does not echo the prompt with one log-probability per token. A sum of anything
    else would be at the level of chance.
    """
    return math.fsum(counted_values(choice, prompt, start))


def is_greedy(choice: Mapping[str, Json], prompt: str, start: int) -> bool:
    """Return whether each token of ``prompt[start:]`` is the most likely one, in an answer as of `loglikelihood`.

    Raises `NoLogprobs` also for a token without the log-probability of the most likely one.
    """
    values, found = echoed(choice, prompt)
    logprobs = choice["logprobs"]
    best = logprobs.get("top_logprobs")
    if not isinstance(best, list) or len(best) < len(found):
        raise NoLogprobs(NOT_STORED if MERGED in logprobs else "'top_logprobs' does not have an entry per token")
    tops = [max(top.values()) if is_object(top) and top else None for top in best]
    pairs = zip(*(_counted_of(each, found, start, logprobs) for each in (values, tops)), strict=True)
    return all(value >= top for value, top in pairs)


def echoed(choice: Mapping[str, Json], prompt: str) -> tuple[list[Json], list[Span]]:
    """Return the log-probabilities of an answer, and the characters of each token of the prompt."""
    text, logprobs = choice.get("text"), choice.get("logprobs")
    fault = not_echoed(text, prompt)
    if fault or not isinstance(text, str):
        raise NoLogprobs(fault)
    if not is_object(logprobs):
        raise NoLogprobs("the answer has no 'logprobs'")
    values, offsets = logprobs.get("token_logprobs"), logprobs.get("text_offset")
    if not isinstance(values, list) or not isinstance(offsets, list) or len(values) != len(offsets):
        raise NoLogprobs("'token_logprobs' and 'text_offset' are not two lists of the same length")
    counted = any(offset != NOT_GIVEN for offset in offsets)
    if not offsets or (counted and offsets[0] != 0):
        raise NoLogprobs("the log-probabilities do not begin with the prompt's first token")
    found = _places(text, offsets, logprobs.get("tokens"), len(prompt))
    if len(found) >= len(values):
        raise NoLogprobs("the log-probabilities do not reach beyond the prompt, where the generated token should be")
    return values, found


def _places(text: str, offsets: Sequence[int], tokens: Json, end: int) -> list[Span]:
    """Return the characters of each token of the prompt."""
    if not isinstance(tokens, list) or len(offsets) < 2:
        if NOT_GIVEN in offsets:
            raise NoLogprobs("the answer has neither tokens nor offsets")
        inside = [offset for offset in offsets if offset < end]
        return list(zip(inside, [*offsets[1:], end], strict=False))
    try:
        return aligned(tokens, offsets, text, end)
    except Misaligned as error:
        raise NoLogprobs(str(error)) from None


def first_counted(found: Sequence[Span], start: int) -> int:
    """Return the number of the first token that reaches beyond ``start``."""
    if isinstance(found, Spans) and found.ends is not None:
        first = bisect_right(found.ends, start)
        return first if first < len(found) else 0
    return next((i for i, (begin, end) in enumerate(found) if begin >= start or end > start), 0)


def counted_values(choice: Mapping[str, Json], prompt: str, start: int) -> list[float]:
    values, found = echoed(choice, prompt)
    return _counted_of(values, found, start, choice["logprobs"])


def _counted_of(values: Sequence[Json], found: Sequence[Span], start: int, logprobs: Mapping[str, Json]) -> list[float]:
    if isinstance(found, Spans) and found.ends is not None:
        counted = list(values[bisect_right(found.ends, start) : len(found)])
    else:
        pairs = zip(values, found, strict=False)
        counted = [value for value, (begin, end) in pairs if begin >= start or end > start]
    if not counted:
        raise NoLogprobs("no token belongs to the continuation")
    if MERGED in logprobs and counted[0] is None:
        raise NoLogprobs(NOT_STORED)
    if any(type(value) not in (int, float) or not math.isfinite(value) for value in counted):
        raise NoLogprobs("a token of the continuation has no finite log-probability")
    return [float(value) for value in counted]


def of_tokens(choice: Mapping[str, Json], prompt_tokens: int, context_tokens: int) -> list[float]:
    """Return the log-probabilities of a prompt of token ids, without those of its first ``context_tokens``.

    ``choice`` answers a request with ``echo``, ``logprobs`` and ``max_tokens=1``. They are read by position, so that it
    must have one for each token of the prompt and one for a generated token. Raises `NoLogprobs` for any other number.
    """
    logprobs = unmerged(choice, context_tokens).get("logprobs")
    if not is_object(logprobs):
        raise NoLogprobs("the answer has no 'logprobs'")
    check_number(logprobs, "token_logprobs", prompt_tokens)
    found = logprobs["token_logprobs"][context_tokens:-1]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in found):
        raise NoLogprobs("a scored token has no finite log-probability")
    return [float(value) for value in found]


def unmerged(choice: Mapping[str, Json], context_tokens: int) -> Mapping[str, Json]:
    """Return a merged choice with an entry for each token again, none of the context with a log-probability.

    Raises `NoLogprobs` where fewer than the merged tokens are context.
    """
    logprobs = choice.get("logprobs")
    if not is_object(logprobs) or MERGED not in logprobs:
        return choice
    size = logprobs[MERGED]
    if type(size) is not int or size > context_tokens:
        raise NoLogprobs(NOT_STORED)
    lists = {name: logprobs.get(name) for name in ("token_logprobs", "top_logprobs")}
    whole = {name: [None] * size + each[1:] if isinstance(each, list) else None for name, each in lists.items()}
    rest = {name: value for name, value in logprobs.items() if name != MERGED}
    return {**choice, "logprobs": rest | whole}


def check_number(logprobs: Mapping[str, Json], name: str, prompt_tokens: int) -> None:
    """Raise `NoLogprobs` unless a list has an entry for each token of a prompt and one for a generated token."""
    found = logprobs.get(name)
    wanted = prompt_tokens + 1
    if not isinstance(found, list) or len(found) != wanted:
        number = len(found) if isinstance(found, list) else "no"
        raise NoLogprobs(f"'{name}' has {number} entries for {prompt_tokens} prompt tokens, expected {wanted}")
