"""Writes once what the prompts and the echoes of a sample have in common, so that its line is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launcher.core.prompt_logprobs import common_length
from launcher.core.responses import MERGED
from launcher.core.types import Json

FEWEST = 200
"""Prompts or texts are shortened only where a line gets at least so many characters or tokens shorter."""
PROMPT, TEXT, ECHO, CONTEXT = "prompt", "text", "echo", "context"
"""The fields of ``shared``, see `shortened`."""

Exchanges = tuple[tuple[Json, ...], tuple[Json, ...]]
"""The requests of a sample, and their responses."""


def shortened(requests: tuple[Json, ...], responses: tuple[Json, ...]) -> tuple[Exchanges, dict[str, Json]]:
    """Return requests and responses without what they have in common, and what `whole` needs to put it back.

    ``prompt`` is the beginning of each prompt, as text or token ids. ``text`` is the beginning of the text of each
    echo. With ``echo``, each text lacks the prompt that it begins with. With ``context``, the first token of each
    merged echo is null: it is the text up to the second one.
    """
    shared: dict[str, Json] = {}
    if _stand_alone(requests) or len(requests) != len(responses) or not all(map(_has_body, requests)):
        return (requests, responses), shared
    echoes = list(_echoes(requests, responses))
    if echoes:
        _note_context([choice for choice, _ in echoes if _is_merged(choice)], shared)
        size = 0 if _note_echo(echoes, shared) else _worth([choice.get("text") for choice, _ in echoes], shared, TEXT)
        if shared:
            responses = _changed(requests, responses, lambda choice, prompt: _short(choice, prompt, size, shared))
    return (_without_prompt(requests, shared), responses), shared


def _stand_alone(requests: tuple[Json, ...]) -> bool:
    """Return whether there is one request with one text and no echo: nothing is there twice."""
    if len(requests) != 1 or not _has_body(requests[0]):
        return False
    body = requests[0]["body"]
    return not body.get("echo") and isinstance(body.get("prompt"), str | None)


def whole(requests: tuple[Json, ...], responses: tuple[Json, ...], shared: Mapping[str, Json]) -> Exchanges:
    """Return what `shortened` was given. Raises `ValueError` where ``shared`` does not fit."""
    try:
        if PROMPT in shared:
            requests = _with_prompts(requests, lambda prompt: shared[PROMPT] + prompt)
        if not {ECHO, TEXT, CONTEXT}.isdisjoint(shared):
            responses = _changed(requests, responses, lambda choice, prompt: _long(choice, prompt, shared))
    except (TypeError, LookupError, AttributeError):
        raise ValueError("not a sample's record: shared does not fit the request and the response") from None
    return requests, responses


def _note_context(merged: Sequence[Mapping[str, Json]], shared: dict[str, Json]) -> None:
    if merged and all(choice["logprobs"]["tokens"][0] == _first_text(choice) for choice in merged):
        shared[CONTEXT] = True


def _note_echo(echoes: Sequence[tuple[Mapping[str, Json], Json]], shared: dict[str, Json]) -> bool:
    """Note that each text begins with its prompt; return whether it does, and that saves enough."""
    pairs = [(choice.get("text"), prompt) for choice, prompt in echoes]
    if not all(isinstance(text, str) and isinstance(prompt, str) and text.startswith(prompt) for text, prompt in pairs):
        return False
    if sum(len(prompt) for _, prompt in pairs) < FEWEST:
        return False
    shared[ECHO] = True
    return True


def _short(choice: Mapping[str, Json], prompt: Json, size: int, shared: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return a choice without what ``shared`` has: its prompt, or the first ``size`` characters of its text."""
    made = {**choice}
    if CONTEXT in shared and _is_merged(choice):
        made["logprobs"] = _with_first(choice["logprobs"], None)
    if size or ECHO in shared:
        made["text"] = choice["text"][len(prompt) if ECHO in shared else size :]
    return made


def _long(choice: Mapping[str, Json], prompt: Json, shared: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return a choice with what `_short` took."""
    made = {**choice}
    if shared.get(ECHO):
        made["text"] = prompt + choice["text"]
    elif TEXT in shared:
        made["text"] = shared[TEXT] + choice["text"]
    if shared.get(CONTEXT) and _is_merged(made):
        made["logprobs"] = _with_first(made["logprobs"], _first_text(made))
    return made


def _without_prompt(requests: tuple[Json, ...], shared: dict[str, Json]) -> tuple[Json, ...]:
    size = _worth([prompt for request in requests for prompt in _prompts(request)], shared, PROMPT)
    return _with_prompts(requests, lambda prompt: prompt[size:]) if size else requests


def _worth(items: Sequence[Json], shared: dict[str, Json], name: str) -> int:
    """Return the length of the common beginning of several items, and note it; 0 where that saves too little."""
    if len(items) < 2 or not (_are_texts(items) or all(map(_is_tokens, items))):
        return 0
    size = common_length(min(items), max(items))
    if size * (len(items) - 1) < FEWEST:
        return 0
    shared[name] = items[0][:size]
    return size


def _are_texts(items: Sequence[Json]) -> bool:
    return all(isinstance(item, str) for item in items)


def _is_tokens(item: Json) -> bool:
    return isinstance(item, list) and set(map(type, item)) <= {int}


def _has_body(request: Json) -> bool:
    return isinstance(request, dict) and isinstance(request.get("body"), dict)


def _prompts(request: Json) -> Sequence[Json]:
    """Return the prompts of a request, as text or as token ids."""
    prompt = request["body"].get("prompt")
    return prompt if isinstance(prompt, list) and prompt and not _is_tokens(prompt) else [prompt]


def _with_prompts(requests: tuple[Json, ...], change: Callable[[Any], Any]) -> tuple[Json, ...]:
    return tuple({**each, "body": {**each["body"], "prompt": _changed_prompt(each, change)}} for each in requests)


def _changed_prompt(request: Json, change: Callable[[Any], Any]) -> Json:
    prompts = _prompts(request)
    made = [change(prompt) for prompt in prompts]
    return made if prompts is request["body"]["prompt"] else made[0]


def _echoes(requests: tuple[Json, ...], responses: tuple[Json, ...]) -> Iterator[tuple[Mapping[str, Json], Json]]:
    """Yield the choices of all answers with an echo, each with its prompt."""
    for request, response in zip(requests, responses, strict=True):
        choices = _choices(request, response)
        for choice in choices:
            yield choice, _prompt_of(choice, _prompts(request), len(choices))


def _changed(
    requests: tuple[Json, ...],
    responses: tuple[Json, ...],
    change: Callable[[Mapping[str, Json], Json], Mapping[str, Json]],
) -> tuple[Json, ...]:
    """Return the responses with another choice in place of each that has an echo."""
    made = []
    for request, response in zip(requests, responses, strict=True):
        choices, prompts = _choices(request, response), _prompts(request)
        new = [change(choice, _prompt_of(choice, prompts, len(choices))) for choice in choices]
        made.append({**response, "choices": new} if new else response)
    return tuple(made)


def _choices(request: Json, response: Json) -> Sequence[Mapping[str, Json]]:
    """Return the choices of an answer that echoes its prompts; none if one of them is not as it should be."""
    found = response.get("choices") if isinstance(response, dict) and request["body"].get("echo") else None
    if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
        return ()
    return found if all(_is_index(choice.get("index"), len(found)) for choice in found) else ()


def _is_index(value: Json, size: int) -> bool:
    return type(value) is int and 0 <= value < size


def _prompt_of(choice: Mapping[str, Json], prompts: Sequence[Json], choices: int) -> Json:
    return prompts[choice["index"] * len(prompts) // choices]


def _is_merged(choice: Mapping[str, Json]) -> bool:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict) or MERGED not in logprobs:
        return False
    tokens, offsets = logprobs.get("tokens"), logprobs.get("text_offset")
    if not (isinstance(tokens, list) and tokens and isinstance(offsets, list) and len(offsets) > 1):
        return False
    return isinstance(choice.get("text"), str) and type(offsets[1]) is int


def _first_text(merged: Mapping[str, Json]) -> Json:
    return merged["text"][: merged["logprobs"]["text_offset"][1]]


def _with_first(logprobs: Mapping[str, Json], token: Json) -> Mapping[str, Json]:
    return {**logprobs, "tokens": [token, *logprobs["tokens"][1:]]}
