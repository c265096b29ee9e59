"""Check answers against their requests: only an answer without a fault may be scored or cached."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import ge
from typing import TypeGuard

from launcher.core.prompt_logprobs import Misaligned, Span, aligned, common_length, not_echoed
from launcher.core.types import Handler, Json, Request, Response, is_object
from launcher.core.values import changed

NOT_JSON = "http_error"
"""The ``type`` that the client gives to an error whose body is not JSON: a proxy's page, not the model server's."""
STOPPED = frozenset({"stop", "stop_sequence", "eos_token"})
"""OpenAI's finish reason for an answer that ended by itself or at a stop string, and TGI's two."""
FINISHED = STOPPED | {"length", "content_filter", "tool_calls", "function_call"}
"""The finish reasons of OpenAI and TGI."""
NO_FINISH = "the answer has no finish_reason"
TINY = 1e-4
"""How far rounding may lift a log-probability above 0, or above that of the best token."""
SEVERAL = 6
"""This many equal log-probabilities of a prompt are not real ones."""
MOST_TOKENS = 100_000_000
"""A count of tokens above this is a mistake."""
LOWEST = -1e6
"""A log-probability below this is a mistake; servers write -9999 for minus infinity."""
ZERO_PROBABILITY = -3.4028234663852886e38
"""llama.cpp's value for minus infinity: the least float of 32 bits."""
QUOTED = 200
SAME_MODEL = re.compile(r"(:latest|[-@]\d{4}-?\d{2}-?\d{2})?")
"""A suffix that servers add to the requested name: OpenAI the date of the version, Ollama ``:latest``."""
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = QUOTED
"""Shortens values of any size."""
LIMITS = ("max_completion_tokens", "max_tokens")
"""The fields of a request that bound its answer, the one that counts first."""
MERGED = "merged_tokens"
"""In the ``logprobs`` of a stored echo: how many tokens its first entry stands for."""
NUMBERS, INTEGERS, TEXTS = frozenset({int, float}), frozenset({int}), frozenset({str})
OBJECTS = frozenset({dict, type(None)})
FEW_TOKENS = 16
"""Lists of fewer tokens are checked whole."""
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def error_of(body: Json) -> Mapping[str, Json]:
    """Return the error object of a body in OpenAI's error shape; empty for any other body."""
    error = body.get("error") if is_object(body) else None
    return error if is_object(error) else {}


def error_message(body: Json) -> str | None:
    """Return the message of an error body; None if it has none.

    OpenAI's shape has it in ``error.message``, vLLM's older one in ``message``, and others have a plain ``error``.
    """
    if not is_object(body):
        return None
    error = body.get("error")
    message = body.get("message") if error is None else error.get("message") if is_object(error) else error
    return (message if isinstance(message, str) else quoted(message)) if message else None


class Fault(ValueError):
    """An answer that contradicts itself or its request."""


@dataclass(frozen=True)
class Finding:
    """The fault of an answer, or else ``notes`` about it, whose texts are the same for many answers."""

    fault: str | None = None
    notes: tuple[str, ...] = ()


def checking(handler: Handler) -> Handler:
    """Return a handler that checks each answer against its request."""

    async def checked_answer(request: Request) -> Response:
        return checked(request, await handler(request))

    return checked_answer


def checked(request: Request, response: Response) -> Response:
    """Return the response with the findings of `check`; a checked one, a stream or an error stays as it is."""
    if response.notes is not None or response.events is not None or not response.ok:
        return response
    found = check(request, response)
    return changed(response, fault=found.fault, notes=found.notes)


def check(request: Request, response: Response) -> Finding:
    """Check a whole answer with a 2xx status. Never raises; takes time in proportion to the answer's size."""
    try:
        if response.status not in (200, 201):
            raise Fault(f"HTTP {response.status} is not a complete answer")
        choices = in_order(response.body, expected(request))
        for choice in choices:
            _check_choice(request, choice)
        _check_logprobs(request, choices)
    except (Fault, Misaligned) as fault:
        return Finding(str(fault))
    return Finding(None, tuple(_notes(request, response.body, choices)))


def expected(request: Request) -> int:
    """Return how many choices a request asks for."""
    prompts = len(prompts_of(request)) or 1
    number = request.body.get("n")
    return prompts * (number if _is_int(number) and number > 0 else 1)


def prompts_of(request: Request) -> Sequence[Json]:
    """Return the prompts of a completion, as text or as token ids; nothing for a chat."""
    prompt = request.body.get("prompt")
    if isinstance(prompt, list) and prompt and not _is_int(prompt[0]):
        return prompt
    return [] if prompt is None else [prompt]


def in_order(body: Json, number: int) -> list[Mapping[str, Json]]:
    """Return the choices by their index. Raises `Fault` unless there is exactly one for each of ``number`` indices."""
    if not is_object(body):
        raise Fault(f"the answer is of type {json_type(body)}, expected object")
    if body.get("error") is not None:
        raise Fault(_error("the answer", body))
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise Fault("the answer has no list of 'choices'")
    if len(choices) != number:
        raise Fault(f"the answer has {len(choices)} choices, expected {number}")
    if not all(map(is_object, choices)):
        raise Fault("a choice of the answer is not an object")
    indices = [choice.get("index") for choice in choices]
    if indices == list(range(number)) and INTEGERS.issuperset(map(type, indices)):
        return choices
    by_index = dict(zip(indices, choices, strict=True)) if all(map(_is_int, indices)) else {}
    if by_index.keys() != set(range(number)):
        raise Fault(f"the choices have the indices {quoted(indices)}, expected 0 to {number - 1}, each once")
    return [by_index[index] for index in range(number)]


def limit_of(body: Mapping[str, Json]) -> int | None:
    """Return the number of tokens to which a request bounds its answer."""
    return next((body[name] for name in LIMITS if isinstance(body.get(name), int)), None)


def context_length(models: Json, model: str) -> int | None:
    """Return the tokens that a model takes, ``max_model_len`` in the body of ``/v1/models``; None if not said."""
    listed = models.get("data") if is_object(models) else None
    entries = [each for each in listed if is_object(each)] if isinstance(listed, list) else []
    found = next((each.get("max_model_len") for each in entries if each.get("id") == model), None)
    return found if _is_int(found) and found > 0 else None


def cut_by_limit(response: Response) -> bool:
    """Tell whether the token limit ended the first choice of an answer."""
    choices = response.body.get("choices") if is_object(response.body) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return is_object(first) and first.get("finish_reason") == "length"


def refuses(response: Response) -> bool:
    """Return whether an answer with an error status is the server's own: JSON in OpenAI's shape, or in vLLM's old one.

    Any other body is the page of a proxy or of another program, and does not judge the request.
    """
    body = response.body
    if is_object(body) and body.get("object") == "error":
        return isinstance(body.get("message"), str)
    error = error_of(body)
    return isinstance(error.get("message"), str) and error.get("type") != NOT_JSON


def is_page(response: Response) -> bool:
    """Return whether an error has a body other than JSON: the page of a proxy in front of the server."""
    return not response.ok and error_of(response.body).get("type") == NOT_JSON


def token_count(usage: Json, key: str) -> int | None:
    """Return a count of tokens from ``usage``; None unless it is a plausible number."""
    value = usage.get(key) if is_object(usage) else None
    return value if _is_int(value) and 0 <= value <= MOST_TOKENS else None


def check_stream(events: Sequence[Json]) -> str | None:
    """Return the fault of a whole stream, or None: an error event, or an unknown finish reason."""
    for event in events:
        choices = event.get("choices") if is_object(event) else None
        if not isinstance(choices, list) or event.get("error") is not None:
            return "an event is an error, or has no list of 'choices'"
        for choice in choices:
            if not is_object(choice) or not _is_int(choice.get("index")):
                return "a choice has no index"
            finish = choice.get("finish_reason")
            if finish is not None and not _is_finish(finish):
                return f"the stream ended with finish_reason {quoted(finish)}"
    return None


def _check_choice(request: Request, choice: Mapping[str, Json]) -> None:
    if choice.get("error") is not None:
        raise Fault(_error("a choice", choice))
    finish = choice.get("finish_reason")
    if finish is not None and not _is_finish(finish):
        raise Fault(f"finish_reason is {quoted(finish)}, expected one of {', '.join(sorted(FINISHED))}")
    if request.route.endswith("/chat/completions"):
        message = choice.get("message")
        if not is_object(message):
            raise Fault("a choice has no message")
        text = message.get("content")
    else:
        if "text" not in choice:
            raise Fault("a choice has no text")
        text = choice["text"]
    if not isinstance(text, str | None):
        raise Fault(f"the content is of type {json_type(text)}, expected string")


def _check_logprobs(request: Request, choices: Sequence[Mapping[str, Json]]) -> None:
    prompts, echo = prompts_of(request), bool(request.body.get("echo"))
    wanted = request.body.get("logprobs")
    values: list[Json] = []
    checked: _Lists | None = None
    for i, choice in enumerate(choices):
        logprobs = choice.get("logprobs")
        prompt = prompts[i * len(prompts) // len(choices)] if echo and prompts else None
        if isinstance(prompt, str) and (fault := not_echoed(choice.get("text"), prompt)):
            raise Fault(fault)
        if logprobs is None:
            if echo and wanted is not None and wanted is not False:
                raise Fault("the answer has no 'logprobs'")
        elif not is_object(logprobs):
            raise Fault(f"'logprobs' is of type {json_type(logprobs)}, expected object")
        elif "content" in logprobs:
            _check_content(logprobs["content"])
        else:
            found, lists = _check_lists(logprobs, choice, prompt, checked, echo=echo)
            checked = checked or lists
            _check_generated(request, len(logprobs["tokens"]) - len(found), isinstance(prompt, str))
            if MERGED not in logprobs:
                values += logprobs["token_logprobs"][1 : len(found)]
    if len(values) >= SEVERAL and min(values) == max(values):
        raise Fault(
            f"all {len(values)} log-probabilities of the prompt are {float(values[0])}: the server did not compute them"
        )


@dataclass(frozen=True)
class _Lists:
    """The lists of a choice that were checked; in those of another one, what they have in common needs no check."""

    tokens: list[str]
    values: list[Json]
    tops: list[dict[str, Json] | None]

    def shared(self, tokens: list[Json], values: list[Json], tops: Json) -> int:
        """Return how many entries from the first are as in these lists; 0 unless all lists have them."""
        size = common_length(self.tokens, tokens)
        same = isinstance(tops, list) and self.values[:size] == values[:size] and self.tops[:size] == tops[:size]
        return size if same else 0


def _sharable(tokens: list[str], values: list[Json], tops: list[dict[str, Json] | None]) -> _Lists | None:
    """Return the lists for a comparison with others; none with a 0, as Python takes ``false`` for equal to it."""
    if len(tokens) < FEW_TOKENS or 0 in values:
        return None
    has_zero = 0 in chain.from_iterable(map(dict.values, filter(None, tops)))
    return None if has_zero else _Lists(tokens, values, tops)


def _check_lists(
    logprobs: Mapping[str, Json], choice: Mapping[str, Json], prompt: Json, before: _Lists | None, *, echo: bool
) -> tuple[list[Span], _Lists | None]:
    """Check the format of completions; return the spans of an echoed prompt, and lists that are free of faults."""
    tokens, values, tops, offsets = (logprobs.get(name) for name in LISTS)
    if not isinstance(values, list) or not isinstance(tokens, list) or len(tokens) != len(values):
        raise Fault("'tokens' and 'token_logprobs' are not two lists of the same length")
    for name, given, needed in (("top_logprobs", tops, False), ("text_offset", offsets, echo)):
        if (given is not None or needed) and (not isinstance(given, list) or len(given) != len(values)):
            raise Fault(f"'{name}' is not a list of the length of 'token_logprobs'")
    if not TEXTS.issuperset(map(type, tokens)):
        raise Fault("a token is not a text")
    if echo and (not values or values[0] is not None):
        raise Fault("the log-probability of the first prompt token must be null: no token precedes it")
    known = before.shared(tokens, values, tops) if before else 0
    _check_numbers(values[max(known, int(echo)) :], "token_logprobs")
    found = _aligned(tokens, offsets, choice["text"], prompt) if isinstance(prompt, str) else []
    if tops is None:
        return found, None
    _check_tops(tops[known:])
    faults = _odd_rows(tokens[: len(found)], values, tops, known)
    if faults and len(faults) > (len(found) // 10 if _hides_spaces(tokens, found, choice["text"]) else 0):
        raise Fault(faults[0])
    if faults or before or not echo:
        return found, None
    size = len(found) if isinstance(prompt, str) else len(tokens)
    return found, _sharable(tokens[:size], values[:size], tops[:size])


def _odd_rows(tokens: Sequence[str], values: Sequence[Json], tops: Sequence[Json], known: int = 0) -> list[str]:
    """Return the faults of tokens and their alternatives; without a loop in Python where there is none.

    The first ``known`` of them have none.
    """
    first = known or 1
    rest, given = tops[first : len(tokens)], values[first : len(tokens)]
    first_is_bare = known or not tops or not tops[0] or values[0] is None
    if first_is_bare and all(rest) and OBJECTS.issuperset(map(type, rest)):
        own, best = map(dict.get, rest, tokens[first:]), map(max, map(dict.values, rest))
        if list(own) == given and all(map(ge, best, given)):
            return []
    return [fault for row in zip(tokens, values, tops, strict=False) if (fault := _odd(*row))]


def _check_generated(request: Request, generated: int, echoed: bool) -> None:
    limit = request.body.get("max_tokens")
    if echoed and _is_int(limit) and generated > limit:
        raise Fault(f"{generated} tokens follow the prompt, expected at most {limit}")


def _aligned(tokens: Sequence[str], offsets: Json, text: str, prompt: str) -> list[Span]:
    if not INTEGERS.issuperset(map(type, offsets)):
        raise Fault("'text_offset' has a value that is not an integer")
    return aligned(tokens, offsets, text, len(prompt))


def _hides_spaces(tokens: Sequence[str], found: Sequence[Span], text: str) -> bool:
    """Return whether tokens hide their leading space, so that two of them may have the same name."""
    pairs = zip(tokens, found, strict=False)
    return any(end - start > len(token) and text[start] == " " for token, (start, end) in pairs)


def _check_numbers(values: Sequence[Json], name: str) -> None:
    if values and NUMBERS.issuperset(map(type, values)) and min(values) > LOWEST and max(values) <= TINY:
        total = sum(values)
        if total == total:  # no NaN, which has no place among the others
            return
    for value in values:
        if not _is_number(value):
            raise Fault(f"'{name}' has {quoted(value)}, expected a number")
        if not (LOWEST < value <= TINY or value == ZERO_PROBABILITY):
            raise Fault(f"'{name}' has {quoted(value)}, expected a finite number that is not above 0")


def _check_tops(tops: Sequence[Json]) -> None:
    if OBJECTS.issuperset(map(type, tops)):
        _check_numbers(list(chain.from_iterable(map(dict.values, filter(None, tops)))), "top_logprobs")
        return
    for top in tops:
        if not isinstance(top, Mapping | None):
            raise Fault(f"'top_logprobs' has {quoted(top)}, expected an object")
        if top:
            _check_numbers(list(top.values()), "top_logprobs")


def _odd(token: str, value: Json, top: Mapping[str, float] | None) -> str | None:
    """Return the fault of a token and its alternatives; parts of characters have no unique name."""
    if not top or value is None or not token.strip("\ufffd"):
        return None
    if value > max(top.values()) + TINY:
        return f"the log-probability {value} of {quoted(token)} is above that of the best alternative"
    own = top.get(token)
    if own is None or abs(own - value) <= TINY:
        return None
    return f"the log-probability of {quoted(token)} is {value} in one list and {own} in another"


def _check_content(content: Json) -> None:
    """Check the format of chats: a list of objects."""
    if content is None:
        return
    if not isinstance(content, list) or not all(map(is_object, content)):
        raise Fault("'logprobs.content' is not a list of objects")
    _check_numbers([entry.get("logprob") for entry in content], "logprobs.content")
    for entry in content:
        tops = entry.get("top_logprobs")
        if not isinstance(tops, list | None) or not all(is_object(top) for top in tops or ()):
            raise Fault("'top_logprobs' is not a list of objects")
        best = [top.get("logprob") for top in tops or ()]
        _check_numbers(best, "top_logprobs")
        if best and entry["logprob"] > max(best) + TINY:
            raise Fault(f"the log-probability of {quoted(entry.get('token'))} is above that of the best alternative")


def _notes(request: Request, body: Mapping[str, Json], choices: Sequence[Mapping[str, Json]]) -> list[str]:
    notes = [NO_FINISH] if any(choice.get("finish_reason") is None for choice in choices) else []
    requested, model = request.body.get("model"), body.get("model")
    if model is not None and requested is not None and not _same_model(str(requested), model):
        notes.append(f"answered by the model {quoted(model)}, requested was {quoted(requested)}")
    return notes


def _same_model(requested: str, model: Json) -> bool:
    if not isinstance(model, str):
        return False
    return model.startswith(requested) and SAME_MODEL.fullmatch(model, len(requested)) is not None


def _error(what: str, body: Mapping[str, Json]) -> str:
    message = error_message(body)
    if message is None:
        return f"{what} has an 'error' without a message: {quoted(body['error'])}"
    return f"{what} has an error: {quoted(message)}"


def quoted(value: Json) -> str:
    """Return a value of any size as Python writes it, in at most `QUOTED` characters."""
    return SHORT.repr(value)[:QUOTED]


def json_type(value: Json) -> str:
    """Return OpenAI's name of a JSON value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "decimal"}
    return names.get(type(value), "null")


def _is_finish(value: Json) -> bool:
    return isinstance(value, str) and value in FINISHED


def _is_int(value: Json) -> TypeGuard[int]:
    return type(value) is int


def _is_number(value: Json) -> bool:
    return type(value) is float or type(value) is int
