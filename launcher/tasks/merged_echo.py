"""Makes an echo short for ``samples.jsonl``: one entry for the context, which no score reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from launcher.core.prompt_logprobs import Span, Spans
from launcher.core.responses import MERGED, check
from launcher.core.types import Json, Request, Response
from launcher.tasks.loglikelihood import NoLogprobs, counted_values, echoed, first_counted, is_greedy

T = TypeVar("T")
Choice = Mapping[str, Json]
LEFT_OUT = ("prompt_logprobs", "prompt_token_ids")
"""What vLLM adds to a choice beside the echo, token by token."""


def merged(choice: Mapping[str, Json], prompt: str, start: int, *, tops: bool) -> Mapping[str, Json]:
    """Return the choice of an echo with one entry for all tokens before those that count, for ``samples.jsonl``.

    That entry has no log-probability. The others have those that they had, and with ``tops`` their alternatives, which
    `is_greedy` reads. The choice stays as it is where the shorter one would not be read in the same way, or would have
    a fault. ``choice`` itself has none.
    """
    values, found = echoed(choice, prompt)
    first = first_counted(found, start)
    if first < 2 or MERGED in choice["logprobs"]:
        return choice
    logprobs = _merged_logprobs(choice["logprobs"], first, choice["text"][: found[first][0]], tops=tops)
    logprobs["text_offset"] = [0, *_offsets(logprobs["tokens"][1:], found[first:], choice["logprobs"]["text_offset"])]
    made = _short(choice) | {"logprobs": logprobs}
    if isinstance(found, Spans) and found.ends is not None:
        return made  # its tokens form the text as those of the choice do, so that they are read in the same way
    if _has_fault(made, prompt):
        return choice
    if tops and is_greedy(choice, prompt, start) is not _read(is_greedy, made, prompt, start):
        return choice
    return made if values[first : len(found)] == _read(counted_values, made, prompt, start) else choice


def merged_tokens(choice: Mapping[str, Json], context_tokens: int, *, tops: bool) -> Mapping[str, Json]:
    """Return the choice of an echo of token ids with one entry for those of the context, as `merged` does."""
    logprobs = choice["logprobs"]
    tokens, offsets = (logprobs.get(name) for name in ("tokens", "text_offset"))
    if context_tokens < 2 or MERGED in logprobs or not (isinstance(tokens, list) and isinstance(offsets, list)):
        return choice
    if not all(type(offset) is int and offset >= 0 for offset in offsets):
        offsets = list(accumulate(map(len, tokens[:-1]), initial=0))
    text = choice["text"][offsets[0] : offsets[context_tokens]]
    made = _merged_logprobs(logprobs, context_tokens, text, tops=tops)
    return _short(choice) | {"logprobs": made | {"text_offset": [offsets[0], *offsets[context_tokens:]]}}


def _short(choice: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in choice.items() if name not in LEFT_OUT}


def _merged_logprobs(logprobs: Mapping[str, Json], first: int, text: str, *, tops: bool) -> dict[str, Json]:
    """Return the lists of an echo with one entry, ``text``, for the tokens before the one numbered ``first``."""
    size = len(logprobs["token_logprobs"])
    made = {
        name: [None, *value[first:]] if isinstance(value, list) and len(value) == size else value
        for name, value in logprobs.items()
    }
    made["tokens"][0], made["text_offset"][0] = text, logprobs["text_offset"][0]
    return made | ({} if tops else {"top_logprobs": None}) | {MERGED: first}


def _offsets(tokens: Sequence[str], found: Sequence[Span], given: Sequence[int]) -> list[int]:
    """Return where each token begins in the text: those of the prompt where they were found, the others behind it."""
    begins = [begin for begin, _ in found]
    rest = list(given[len(given) - len(tokens) :])
    if rest[: len(begins)] == begins:
        return rest
    ends = accumulate((len(token) for token in tokens[len(begins) :]), initial=found[-1][1])
    return [*begins, *ends][: len(tokens)]


def _has_fault(choice: Choice, prompt: str) -> bool:
    request = Request("/v1/completions", {"prompt": prompt, "max_tokens": 1, "logprobs": 1, "echo": True})
    return check(request, Response(200, {"choices": [{**choice, "index": 0}]})).fault is not None


def _read(reader: Callable[[Choice, str, int], T], choice: Choice, prompt: str, start: int) -> T | None:
    """Return what is read of a shorter echo, None if it cannot be read."""
    try:
        return reader(choice, prompt, start)
    except NoLogprobs:
        return None
