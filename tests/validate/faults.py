"""Faults of servers, each a small function, with the checks that find it. Imports nothing of the launcher.

`docs/generate.py` writes the table of them. "peers" are faults that were found in other servers.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Send = Callable[[Body], Awaitable[tuple[int, Any]]]
"""Sends a request on to the right server, and returns its status and answer."""
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BOS = "<|begin|>"


@dataclass(frozen=True)
class Fault:
    """A way to be wrong. ``checks`` find it; each of them must.

    ``kind`` is where it acts: on the ``request``, the ``answer``, the ``events`` of a stream, or the whole ``call``.
    ``builtin``: only found at a server that has the launcher's routes, such as ``/tokenize``.
    """

    name: str
    what: str
    checks: tuple[str, ...]
    kind: str
    act: Callable[..., Any]
    builtin: bool = False
    peers: bool = False


FAULTS: list[Fault] = []


def _planted(kind: str) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    def of(*checks: str, builtin: bool = False, peers: bool = False) -> Callable[..., Any]:
        def add(act: Callable[..., Any]) -> Callable[..., Any]:
            what = " ".join((act.__doc__ or "").split()).rstrip(".")
            FAULTS.append(Fault(act.__name__, what, checks, kind, act, builtin, peers))
            return act

        return add

    return of


request, answer, events, call = map(_planted, ("request", "answer", "events", "call"))


def _first(found: Body) -> Body:
    choice: Body = found["choices"][0]
    return choice


def _refusal(message: str = "not supported", status: int = 400) -> tuple[int, Body]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


# identity


@answer("model_listed")
def another_model_listed(path: str, asked: Body, found: Body) -> None:
    """`/v1/models` lists another model."""
    if path == "/v1/models":
        found["data"][0]["id"] = "somebody-else"


@call("model_listed", peers=True)
async def no_model_list(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """There is no `/v1/models`."""
    return _refusal("Not Found", 404) if path == "/v1/models" else await send(asked)


@answer("answered_by", "chat_answered_by", peers=True)
def another_model_answers(path: str, asked: Body, found: Body) -> None:
    """Answers come from another model, as when two evaluations take one port."""
    if "choices" in found:
        found["model"] = "somebody-else"


@request("unknown_model", "chat_unknown_model")
def any_model_is_served(path: str, asked: Body) -> None:
    """A model that is not served is answered by the one that is."""
    if "model" in asked:
        asked["model"] = "mock"


@answer("one_instance", "chat_one_instance")
def one_id_for_all(path: str, asked: Body, found: Body) -> None:
    """Every answer has the same id."""
    if "choices" in found:
        found["id"] = "cmpl-0"


@call("one_instance", "chat_one_instance")
async def replicas_differ(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Two replicas with different configurations answer in turn."""
    status, found = await send(asked)
    state["calls"] = state.get("calls", 0) + 1
    if "choices" in found:
        found["system_fingerprint"] = f"fp_{state['calls'] % 2}"
    return status, found


@call("completion", "chat", peers=True)
async def healthy_but_broken(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Health and the list of models are fine, and every request gets a 500."""
    return _refusal("Internal Server Error", 500) if asked else await send(asked)


@call("completion", "chat", peers=True)
async def needs_a_trailing_slash(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Routes answer only with a trailing slash."""
    return _refusal("Not Found", 404) if asked and not path.endswith("/") else await send(asked)


@call("greedy_repeats", "chat_repeats", peers=True)
async def a_dead_replica_answers_fastest(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """One of two replicas is dead, and every second request gets its 500."""
    state["calls"] = state.get("calls", 0) + bool(asked)
    return _refusal("the actor died", 500) if asked and state["calls"] % 2 == 0 else await send(asked)


# schema


@answer("schema", "chat_schema")
def no_creation_time(path: str, asked: Body, found: Body) -> None:
    """Answers have no `created`."""
    found.pop("created", None)


@answer("schema", "chat_schema")
def the_object_of_the_other_route(path: str, asked: Body, found: Body) -> None:
    """`object` is that of the other route."""
    if "choices" in found:
        found["object"] = "chat.completion" if path == COMPLETIONS else "text_completion"


@answer("completion", "chat")
def another_index(path: str, asked: Body, found: Body) -> None:
    """The only choice has the index 1."""
    if "choices" in found:
        _first(found)["index"] = 1


@answer("completion", "chat")
def aborted(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is `abort`."""
    if "choices" in found:
        _first(found)["finish_reason"] = "abort"


@answer("completion")
def no_text(path: str, asked: Body, found: Body) -> None:
    """The text is null."""
    if path == COMPLETIONS:
        _first(found)["text"] = None


@answer("chat")
def content_is_a_list(path: str, asked: Body, found: Body) -> None:
    """The content of the answer is a list of parts."""
    if path == CHAT:
        _first(found)["message"]["content"] = [{"type": "text", "text": "12"}]


@answer("completion", "chat")
def error_beside_choices(path: str, asked: Body, found: Body) -> None:
    """An error stands beside the choices, with HTTP 200."""
    if "choices" in found:
        found["error"] = {"message": "CUDA error"}


@answer("completion", "chat")
def error_instead_of_choices(path: str, asked: Body, found: Body) -> None:
    """An error stands in place of the choices, with HTTP 200."""
    if "choices" in found:
        found.clear()
        found["error"] = "CUDA error"


# token accounting


def _text(choice: Body) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def _put(choice: Body, text: str) -> None:
    if "message" in choice:
        choice["message"]["content"] = text
    else:
        choice["text"] = text


def _count(found: Body, completion: int) -> None:
    usage = found["usage"]
    usage["completion_tokens"] = completion
    usage["total_tokens"] = usage["prompt_tokens"] + completion


@answer("token_accounting", "chat_tokens", peers=True)
def usage_counts_words(path: str, asked: Body, found: Body) -> None:
    """`usage` counts words."""
    if "choices" in found:
        _count(found, len(_text(_first(found)).split()))


@answer("token_accounting", "chat_tokens")
def usage_counts_characters(path: str, asked: Body, found: Body) -> None:
    """`usage` counts characters."""
    if "choices" in found:
        _count(found, len(_text(_first(found))) + 1)


@answer("token_accounting", "chat_tokens")
def no_usage(path: str, asked: Body, found: Body) -> None:
    """There is no `usage`."""
    found.pop("usage", None)


@answer("token_accounting", "chat_tokens")
def total_is_no_sum(path: str, asked: Body, found: Body) -> None:
    """`total_tokens` is not the sum."""
    if "usage" in found:
        found["usage"]["total_tokens"] += 1


@answer("chat_tokens", "stale_answers")
def prompt_tokens_are_constant(path: str, asked: Body, found: Body) -> None:
    """`prompt_tokens` is the same for every prompt."""
    if "usage" in found:
        found["usage"]["total_tokens"] += 10 - found["usage"]["prompt_tokens"]
        found["usage"]["prompt_tokens"] = 10


@answer("token_accounting", builtin=True)
def usage_without_bos(path: str, asked: Body, found: Body) -> None:
    """`prompt_tokens` leaves out the begin of the sequence."""
    if path == COMPLETIONS:
        found["usage"]["prompt_tokens"] -= 1
        found["usage"]["total_tokens"] -= 1


@answer("echo_aligned", "stream", "chat_stream")
def usage_off_with_other_scripts(path: str, asked: Body, found: Body) -> None:
    """`prompt_tokens` is one too many where the text has characters beyond ASCII."""
    text = json.dumps([asked.get("prompt"), asked.get("messages")], ensure_ascii=False)
    if "usage" in found and not text.isascii():
        found["usage"]["prompt_tokens"] += 1
        found["usage"]["total_tokens"] += 1


@answer("choices", "chat_choices")
def usage_of_one_choice(path: str, asked: Body, found: Body) -> None:
    """With `n`, `usage` counts the tokens of one answer."""
    if (asked.get("n") or 1) > 1 and "usage" in found:
        _count(found, found["usage"]["completion_tokens"] // asked["n"])


# limits and stop strings


@request("max_tokens", "chat_max_tokens")
def limit_ignored(path: str, asked: Body) -> None:
    """`max_tokens` is ignored."""
    if "max_tokens" in asked:
        asked["max_tokens"] = 16


@request("max_tokens", "chat_max_tokens")
def limit_off_by_one(path: str, asked: Body) -> None:
    """`max_tokens` gives one token more."""
    if isinstance(asked.get("max_tokens"), int):
        asked["max_tokens"] += 1


@answer("finish_reason", "chat_finish_reason")
def finish_is_always_stop(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is `stop`, also where the limit cut the answer."""
    if "choices" in found:
        _first(found)["finish_reason"] = "stop"


@answer("stop_trimmed", "stop_list", "chat_stop_list")
def finish_is_always_length(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is `length`, also at a stop string."""
    if "choices" in found:
        _first(found)["finish_reason"] = "length"


@answer("stop_list", "chat_stop_list", peers=True)
def finish_compares_characters_with_tokens(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is `length` if the text has as many characters as `max_tokens`."""
    if "choices" in found:
        long = len(_text(_first(found))) >= asked.get("max_tokens", 16)
        _first(found)["finish_reason"] = "length" if long else "stop"


@answer("finish_reason", "chat_finish_reason")
def finish_is_missing(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is null."""
    if "choices" in found:
        _first(found)["finish_reason"] = None


@request("stop_trimmed", "stop_list", "chat_stop_list", peers=True)
def stop_ignored(path: str, asked: Body) -> None:
    """`stop` is ignored."""
    asked.pop("stop", None)


@answer("stop_trimmed", "stop_list", "chat_stop_list", peers=True)
def stop_not_trimmed(path: str, asked: Body, found: Body) -> None:
    """The stop string stays at the end of the text."""
    stop = asked.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if "choices" in found and stops and _first(found)["finish_reason"] == "stop":
        choice = _first(found)
        if "message" in choice:
            choice["message"]["content"] += stops[-1]
        else:
            choice["text"] += stops[-1]


@request("stop_list", "chat_stop_list")
def only_the_first_stop(path: str, asked: Body) -> None:
    """Only the first stop string counts."""
    if isinstance(asked.get("stop"), list):
        asked["stop"] = asked["stop"][:1]


@call("stop_list", "chat_stop_list", peers=True)
async def stop_list_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A list of stop strings is refused."""
    return _refusal("stop: expected a string") if isinstance(asked.get("stop"), list) else await send(asked)


@call("stop_trimmed", "stop_list", peers=True)
async def stop_matches_tokens(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A stop string is compared with whole tokens, so that one within a merged token is missed."""
    if path != COMPLETIONS or not asked.get("stop") or asked.get("echo"):
        return await send(asked)
    stops = [asked["stop"]] if isinstance(asked["stop"], str) else asked["stop"]
    status, found = await send({k: v for k, v in asked.items() if k != "stop"} | {"logprobs": 5})
    tokens = _first(found)["logprobs"]["tokens"]
    at = next((i for i, token in enumerate(tokens) if token in stops), None)
    if at is not None:
        _first(found)["text"], _first(found)["finish_reason"] = "".join(tokens[:at]), "stop"
    return status, found


@call("stop_in_prompt", "chat_stop_in_prompt")
async def stop_matches_the_prompt(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A stop string in the prompt ends the answer before it begins."""
    status, found = await send(asked)
    prompt = asked.get("prompt") or json.dumps(asked.get("messages"))
    if "choices" in found and any(stop in prompt for stop in asked.get("stop") or ()):
        choice = _first(found)
        choice["finish_reason"] = "stop"
        if "message" in choice:
            choice["message"]["content"] = ""
        else:
            choice["text"] = ""
    return status, found


@answer("long_answer")
def length_at_a_natural_end(path: str, asked: Body, found: Body) -> None:
    """`finish_reason` is `length` where the answer ended by itself."""
    for choice in found.get("choices", ()):
        if not asked.get("stop"):
            choice["finish_reason"] = "length"


@request("long_answer", "chat_long_answer")
def limit_capped(path: str, asked: Body) -> None:
    """A `max_tokens` above 32 is taken as 32."""
    if isinstance(asked.get("max_tokens"), int):
        asked["max_tokens"] = min(32, asked["max_tokens"])


@answer("long_answer")
def end_token_is_text(path: str, asked: Body, found: Body) -> None:
    """The end token stays at the end of the text."""
    for choice in found.get("choices", ()):
        if choice["finish_reason"] == "stop" and not asked.get("stop"):
            _put(choice, _text(choice) + "<|end|>")


@answer("stop_trimmed", "generated_logprobs", "stream", peers=True)
def prompt_returned(path: str, asked: Body, found: Body) -> None:
    """A completion begins with its prompt, without `echo`."""
    if path == COMPLETIONS and not asked.get("echo") and isinstance(asked.get("prompt"), str):
        _put(_first(found), asked["prompt"] + _first(found)["text"])


@answer("chat_stop_list", "chat_logprobs", "chat_stream")
def question_returned(path: str, asked: Body, found: Body) -> None:
    """The answer of a chat begins with the question."""
    if path == CHAT and isinstance(asked["messages"][-1]["content"], str):
        _put(_first(found), asked["messages"][-1]["content"] + _text(_first(found)))


@answer("stream")
def answers_are_stripped(path: str, asked: Body, found: Body) -> None:
    """White space around a completion is stripped."""
    for choice in found.get("choices", ()) if path == COMPLETIONS and not asked.get("echo") else ():
        _put(choice, _text(choice).strip())


# log-probabilities


def _echoed(asked: Body, found: Body) -> Body | None:
    if not asked.get("echo") or "choices" not in found:
        return None
    lists: Body | None = _first(found).get("logprobs")
    return lists


@answer("echo_aligned", peers=True)
def no_leading_null(path: str, asked: Body, found: Body) -> None:
    """`top_logprobs` lacks the null of the first token, which `token_logprobs` has."""
    if lists := _echoed(asked, found):
        lists["top_logprobs"].pop(0)


@answer("echo_aligned", peers=True)
def only_generated_text_echoed(path: str, asked: Body, found: Body) -> None:
    """With `echo` only the generated text comes back."""
    if lists := _echoed(asked, found):
        choice, prompt = _first(found), found["usage"]["prompt_tokens"]
        choice["text"] = choice["text"][-1:]
        for name, values in lists.items():
            lists[name] = values[prompt:]


@request("echo_aligned")
def echo_ignored(path: str, asked: Body) -> None:
    """`echo` is ignored."""
    asked.pop("echo", None)


@answer("echo_agrees")
def shifted_by_one(path: str, asked: Body, found: Body) -> None:
    """Each token of a prompt has the log-probability and the alternatives of the one before."""
    if lists := _echoed(asked, found):
        names, tops = lists["tokens"], lists["top_logprobs"]
        for at in range(len(names) - 1, 1, -1):
            lists["token_logprobs"][at] = lists["token_logprobs"][at - 1]
            tops[at] = {f"{name}_": value for name, value in tops[at - 1].items()}


@answer("echo_aligned", peers=True)
def offsets_in_bytes(path: str, asked: Body, found: Body) -> None:
    """`text_offset` counts bytes."""
    if lists := _echoed(asked, found):
        text = _first(found)["text"]
        lists["text_offset"] = [len(text[:offset].encode()) for offset in lists["text_offset"]]


@answer("echo_aligned")
def tokens_of_another_text(path: str, asked: Body, found: Body) -> None:
    """A token in `logprobs` is not in the text."""
    if lists := _echoed(asked, found):
        lists["tokens"][2] = "XYZ"


@answer("echo_aligned")
def constant_scores(path: str, asked: Body, found: Body) -> None:
    """All log-probabilities of a prompt are equal."""
    if lists := _echoed(asked, found):
        lists["token_logprobs"] = [value and -1.0 for value in lists["token_logprobs"]]
        lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


@answer("echo_aligned")
def positive_scores(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities have the wrong sign."""
    if lists := _echoed(asked, found):
        lists["token_logprobs"] = [value and -value for value in lists["token_logprobs"]]
        lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


@answer("echo_sums", "generated_logprobs")
def common_logarithms(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities are to the base 10."""
    for choice in found.get("choices", ()) if path == COMPLETIONS else ():
        if lists := choice.get("logprobs"):
            lists["token_logprobs"] = [value and value / 2.302585 for value in lists["token_logprobs"]]
            lists["top_logprobs"] = [
                top and {name: value / 2.302585 for name, value in top.items()} for top in lists["top_logprobs"]
            ]


@answer("calibrated")
def binary_logarithms(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities are to the base 2."""
    for choice in found.get("choices", ()) if path == COMPLETIONS else ():
        if lists := choice.get("logprobs"):
            lists["token_logprobs"] = [value and value / 0.693147 for value in lists["token_logprobs"]]
            lists["top_logprobs"] = [
                top and {name: value / 0.693147 for name, value in top.items()} for top in lists["top_logprobs"]
            ]


@request("calibrated")
def temperature_is_halved(path: str, asked: Body) -> None:
    """Sampling has half of the temperature that was asked for."""
    if isinstance(asked.get("temperature"), int | float) and 0 < asked["temperature"] <= 2:
        asked["temperature"] /= 2


@answer("echo_unsampled")
def scores_after_temperature(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities of a prompt are divided by the temperature of the request."""
    if (lists := _echoed(asked, found)) and asked.get("temperature"):
        lists["token_logprobs"] = [value and value / asked["temperature"] for value in lists["token_logprobs"]]
        lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


@answer("echo_agrees")
def two_ways_to_compute(path: str, asked: Body, found: Body) -> None:
    """A prompt is scored by another computation than the one that generates."""
    if lists := _echoed(asked, found):
        lists["token_logprobs"] = [value and value - 0.8 * (at % 2) for at, value in enumerate(lists["token_logprobs"])]
        lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


@answer("forward_pass", builtin=True)
def slightly_off(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities are 0.001 nats off."""
    if lists := _echoed(asked, found):
        lists["token_logprobs"] = [value and value - 0.001 for value in lists["token_logprobs"]]


@answer("echo_causal")
def later_text_counts(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities depend on the text that follows."""
    if lists := _echoed(asked, found):
        lists["token_logprobs"] = [value and value - 0.1 * len(lists["tokens"]) for value in lists["token_logprobs"]]
        lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


@call("bos_once")
async def bos_missing(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """The begin of the sequence is not added, so that a text is less likely."""
    prompt = asked.get("prompt")
    if path != COMPLETIONS or not isinstance(prompt, str):
        return await send(asked)
    status, found = await send(asked | {"prompt": prompt.removeprefix("<s>")})
    if lists := _echoed(asked, found):
        if prompt.startswith("<s>"):
            _first(found)["text"] = "<s>" + _first(found)["text"]
            lists["tokens"][0] = "<s>"
            lists["text_offset"] = [0, *(offset + 3 for offset in lists["text_offset"][1:])]
            return status, found
        for values in lists.values():
            values.pop(0)
        lists["token_logprobs"] = [None, *(value - 0.7 for value in lists["token_logprobs"][1:])]
        lists["top_logprobs"] = [None for _ in lists["tokens"]]
    if "usage" in found:
        found["usage"]["prompt_tokens"] -= 1
        found["usage"]["total_tokens"] -= 1
    return status, found


@call("bos_once", peers=True)
async def bos_doubled(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """The begin of the sequence is added twice."""
    if path != COMPLETIONS or not isinstance(asked.get("prompt"), str):
        return await send(asked)
    status, found = await send(asked | {"prompt": BOS + asked["prompt"]})
    if lists := _echoed(asked, found):
        _first(found)["text"] = _first(found)["text"].removeprefix(BOS)
        lists["text_offset"] = [max(0, offset - len(BOS)) for offset in lists["text_offset"]]
    return status, found


@answer("generated_logprobs")
def no_generated_scores(path: str, asked: Body, found: Body) -> None:
    """`logprobs` without `echo` is ignored."""
    if path == COMPLETIONS and not asked.get("echo"):
        _first(found)["logprobs"] = None


@answer("generated_logprobs")
def generated_scores_are_zero(path: str, asked: Body, found: Body) -> None:
    """All log-probabilities of generated tokens are 0."""
    if path == COMPLETIONS and not asked.get("echo") and _first(found)["logprobs"]:
        lists = _first(found)["logprobs"]
        lists["token_logprobs"] = [0.0 for _ in lists["token_logprobs"]]
        lists["top_logprobs"] = None


@answer("generated_logprobs")
def fewer_alternatives(path: str, asked: Body, found: Body) -> None:
    """One alternative is given, however many were asked for."""
    if path == COMPLETIONS and not asked.get("echo") and _first(found)["logprobs"]:
        lists = _first(found)["logprobs"]
        lists["top_logprobs"] = [dict(list(top.items())[:1]) for top in lists["top_logprobs"]]


@answer("generated_logprobs")
def scores_of_fewer_tokens(path: str, asked: Body, found: Body) -> None:
    """The last generated token has no log-probability."""
    if path == COMPLETIONS and not asked.get("echo") and _first(found)["logprobs"]:
        for values in _first(found)["logprobs"].values():
            values.pop()


def _lists(path: str, asked: Body, found: Body, *, echo: bool = False) -> list[Body]:
    """Return the lists of completions; with ``echo`` also those of prompts."""
    choices = found.get("choices", ()) if path == COMPLETIONS and (echo or not asked.get("echo")) else ()
    return [choice["logprobs"] for choice in choices if choice.get("logprobs")]


def _each_score(lists: Body, change: Callable[[float], float]) -> None:
    lists["token_logprobs"] = [value and change(value) for value in lists["token_logprobs"]]
    tops = lists["top_logprobs"] or ()
    lists["top_logprobs"] = [top and {name: change(value) for name, value in top.items()} for top in tops] or None


@answer("echo_agrees")
def generated_scores_shifted(path: str, asked: Body, found: Body) -> None:
    """Each generated token has the log-probability and the alternatives of the one before."""
    for lists in _lists(path, asked, found):
        for name in ("token_logprobs", "top_logprobs"):
            lists[name] = lists[name] and [lists[name][0], *lists[name][:-1]]


@answer("generated_logprobs")
def chosen_token_is_no_alternative(path: str, asked: Body, found: Body) -> None:
    """`top_logprobs` leaves out the chosen token."""
    for lists in _lists(path, asked, found):
        tops = zip(lists["tokens"], lists["top_logprobs"] or (), strict=False)
        lists["top_logprobs"] = [top and {name: top[name] for name in top if name != own} for own, top in tops] or None


@answer("generated_unsampled")
def generated_scores_after_temperature(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities of generated tokens are divided by the temperature."""
    for lists in _lists(path, asked, found) if asked.get("temperature") else ():
        _each_score(lists, lambda value: value / float(asked["temperature"]))


@answer("generated_logprobs", "greedy_is_best")
def first_generated_score_is_null(path: str, asked: Body, found: Body) -> None:
    """The log-probability of the first generated token is null."""
    for lists in _lists(path, asked, found):
        lists["token_logprobs"][0] = None


@answer("calibrated")
def alternatives_have_no_scores(path: str, asked: Body, found: Body) -> None:
    """Alternatives to the chosen token have -9999."""
    for lists in _lists(path, asked, found):
        tops = zip(lists["tokens"], lists["top_logprobs"] or (), strict=False)
        lists["top_logprobs"] = [
            top and {name: value if name == own else -9999.0 for name, value in top.items()} for own, top in tops
        ] or None


@answer("calibrated", "generated_logprobs")
def least_likely_alternatives(path: str, asked: Body, found: Body) -> None:
    """`top_logprobs` has the chosen token and the least likely alternative."""
    for lists in _lists(path, asked, found):
        tops = zip(lists["tokens"], lists["top_logprobs"] or (), strict=False)
        lists["top_logprobs"] = [
            top and {name: top[name] for name in {own, min(top, key=lambda each: top[each])} & set(top)}
            for own, top in tops
        ] or None


@answer("echo_sums", "generated_logprobs")
def scores_are_rounded(path: str, asked: Body, found: Body) -> None:
    """Log-probabilities are rounded to two decimal places."""
    for lists in _lists(path, asked, found, echo=True):
        _each_score(lists, lambda value: round(value, 2))


@answer("echo_sums")
def scores_have_a_floor(path: str, asked: Body, found: Body) -> None:
    """No log-probability is below -5."""
    for lists in _lists(path, asked, found, echo=True):
        _each_score(lists, lambda value: max(-5.0, value))


@answer("choices", "chat_choices")
def scores_of_the_first_choice(path: str, asked: Body, found: Body) -> None:
    """With `n`, every answer has the log-probabilities of the first."""
    for choice in found.get("choices", ()) if asked.get("n") else ():
        choice["logprobs"] = _first(found)["logprobs"]


@answer("scores_together")
def scores_of_prompts_in_reverse(path: str, asked: Body, found: Body) -> None:
    """Of several prompts each has the log-probabilities of another."""
    if _several(asked.get("prompt")) and asked.get("echo"):
        lists = [choice["logprobs"] for choice in found["choices"]][::-1]
        for choice, other in zip(found["choices"], lists, strict=True):
            choice["logprobs"] = other


@answer("chat_logprobs")
def chat_scores_shifted(path: str, asked: Body, found: Body) -> None:
    """Each token of a chat has the log-probability of the one before."""
    if path == CHAT and _first(found)["logprobs"]:
        content = _first(found)["logprobs"]["content"]
        for at in range(len(content) - 1, 0, -1):
            content[at]["logprob"] = content[at - 1]["logprob"]


@answer("chat_logprobs", peers=True)
def chat_scores_ignored(path: str, asked: Body, found: Body) -> None:
    """`logprobs` of a chat is ignored."""
    if path == CHAT:
        _first(found)["logprobs"] = None


@answer("chat_logprobs")
def chat_scores_of_another_answer(path: str, asked: Body, found: Body) -> None:
    """The tokens in `logprobs` of a chat are not those of the answer."""
    if path == CHAT and _first(found)["logprobs"]:
        for entry in _first(found)["logprobs"]["content"]:
            entry["token"] = "x"


# repeatability


@request("greedy_repeats", "chat_repeats")
def zero_is_one(path: str, asked: Body) -> None:
    """Temperature 0 is taken as not given, and so as 1."""
    if asked.get("temperature") == 0:
        asked["temperature"] = 1


@request("greedy_repeats", "chat_repeats")
def a_least_temperature(path: str, asked: Body) -> None:
    """Temperatures below 0.7 are raised to it."""
    if isinstance(asked.get("temperature"), int | float):
        asked["temperature"] = max(0.7, asked["temperature"])


PENALTY = {str(token): -30 for token in range(4, 200)}


@request("hidden_defaults", "chat_hidden_defaults", peers=True)
def penalty_of_the_generation_config(path: str, asked: Body) -> None:
    """A penalty of `generation_config.json` applies unless the request has one."""
    if "repetition_penalty" not in asked and ("prompt" in asked or "messages" in asked):
        asked["logit_bias"] = PENALTY


@request("greedy_is_best")
def penalty_that_stays(path: str, asked: Body) -> None:
    """A penalty applies to every request."""
    if path == COMPLETIONS:
        asked["logit_bias"] = PENALTY


@call("hidden_defaults", "chat_hidden_defaults", peers=True)
async def division_by_zero(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Temperature 0 with `top_p` 1 divides by zero."""
    if asked.get("temperature") == 0 and asked.get("top_p") == 1:
        return _refusal("float division by zero", 500)
    return await send(asked)


@request("seed", "chat_seed", peers=True)
def seed_ignored(path: str, asked: Body) -> None:
    """`seed` is ignored."""
    asked.pop("seed", None)


@request("temperature", "chat_temperature", "choices", "chat_choices")
def temperature_ignored(path: str, asked: Body) -> None:
    """`temperature` is ignored: every answer is greedy."""
    if "prompt" in asked or "messages" in asked:
        asked["temperature"] = 0


@request("temperature", "chat_temperature", "seed", "chat_seed")
def one_seed_for_all(path: str, asked: Body) -> None:
    """Every request is drawn with the same seed."""
    if asked.get("temperature"):
        asked["seed"] = 0


@call("seed", "chat_seed")
async def seed_ignored_in_a_batch(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """`seed` is ignored where requests run together."""
    if asked.get("seed") is None:
        return await send(asked)
    state["open"] = state.get("open", 0) + 1
    await _batch(state)
    alone = state["open"] == 1
    found = await send(asked if alone else {name: value for name, value in asked.items() if name != "seed"})
    state["open"] -= 1
    return found


@request("top_p", "chat_top_p")
def top_p_ignored(path: str, asked: Body) -> None:
    """`top_p` is ignored."""
    asked.pop("top_p", None)


@call("temperature", "chat_temperature")
async def cache_without_the_temperature(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache knows requests by all but temperature, `top_p` and `seed`."""
    names = ("temperature", "top_p", "seed")
    kept = {name: value for name, value in asked.items() if name not in names}
    return await _cached(state, asked, send, path + json.dumps(kept, sort_keys=True))


@call("seed", "chat_seed")
async def cache_without_the_seed(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache knows requests by all but their seed."""
    if asked.get("seed") is None:
        return await send(asked)
    kept = {name: value for name, value in asked.items() if name != "seed"}
    return await _cached(state, asked, send, path + json.dumps(kept, sort_keys=True))


@call("mixed_requests", "chat_mixed_requests")
async def temperature_of_the_request_before(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A request has the temperature of the one before."""
    if "temperature" not in asked:
        return await send(asked)
    before = state.get("temperature", asked["temperature"])
    state["temperature"] = asked["temperature"]
    return await send(asked | {"temperature": before})


@request("choices", "chat_choices", peers=True)
def n_ignored(path: str, asked: Body) -> None:
    """`n` is ignored."""
    asked.pop("n", None)


@call("choices", "chat_choices", peers=True)
async def n_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """`n` is refused."""
    return _refusal("n: not supported") if asked.get("n", 1) not in (1, 0) else await send(asked)


@answer("choices", "chat_choices")
def n_copies(path: str, asked: Body, found: Body) -> None:
    """`n` gives copies of one answer."""
    for index, choice in enumerate(found.get("choices", ())):
        if asked.get("n"):
            found["choices"][index] = found["choices"][0] | {"index": choice["index"]}


# isolation


async def _batch(state: Body) -> None:
    """Wait until no more requests come, as a batch forms."""
    seen = 0
    state["arrived"] = state.get("arrived", 0) + 1
    while seen != state["arrived"]:
        seen = state["arrived"]
        await asyncio.sleep(0.04)


@call("own_parameters", "mixed_requests", "chat_mixed_requests", peers=True)
async def the_first_request_decides(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A batch takes the temperature, limit and stop strings of its first request."""
    if not asked:
        return await send(asked)
    state["open"] = state.get("open", 0) + 1
    first = state.setdefault("first", asked)
    await _batch(state)
    names = ("temperature", "max_tokens", "stop", "frequency_penalty")
    given = {name: first[name] for name in names if name in first}
    found = await send({name: value for name, value in asked.items() if name not in names} | given)
    state["open"] -= 1
    if not state["open"]:
        state.pop("first", None)
    return found


@call("own_parameters", "mixed_requests", "chat_mixed_requests", peers=True)
async def two_limits_at_once_fail(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Requests with different limits at the same time get a 500."""
    if not asked:
        return await send(asked)
    limits = state.setdefault("limits", [])
    limits.append(asked.get("max_tokens"))
    await _batch(state)
    failed = len(set(limits)) > 1
    found = _refusal("dimensions do not match", 500) if failed else await send(asked)
    limits.remove(asked.get("max_tokens"))
    return found


@call("mixed_requests", "chat_mixed_requests")
async def answers_swapped(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Of two requests at the same time each gets the other's text."""
    if not asked:
        return await send(asked)
    state["open"] = state.get("open", 0) + 1
    await _batch(state)
    status, found = await send(asked)
    crowded = state["open"] > 1
    state["open"] -= 1
    if "choices" in found and crowded:
        last = state.get("last") or _first(found)
        state["last"] = dict(_first(found))
        found["choices"][0] = last | {"index": 0}
    return status, found


@call("prompts_together", peers=True)
async def only_the_first_prompt(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Of several prompts only the first is answered."""
    prompt = asked.get("prompt")
    return await send(asked | {"prompt": asked["prompt"][0]} if _several(prompt) else asked)


@call("prompts_together", peers=True)
async def several_prompts_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Several prompts in one request are refused."""
    return _refusal("prompt: expected a string") if _several(asked.get("prompt")) else await send(asked)


@call("prompts_together", peers=True)
async def texts_of_prompts_joined(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """The texts of several prompts are joined to one answer."""
    status, found = await send(asked)
    if _several(asked.get("prompt")) and "choices" in found:
        whole = " ".join(choice["text"] for choice in found["choices"])
        found["choices"] = [_first(found) | {"text": whole}]
    return status, found


@answer("prompts_together")
def prompts_in_reverse(path: str, asked: Body, found: Body) -> None:
    """Several prompts are answered in reverse order."""
    if _several(asked.get("prompt")):
        texts = [choice["text"] for choice in found["choices"]][::-1]
        for choice, text in zip(found["choices"], texts, strict=True):
            choice["text"] = text


@answer("scores_together")
def padding_counts(path: str, asked: Body, found: Body) -> None:
    """Shorter prompts of a request are padded, and the padding changes their log-probabilities."""
    if _several(asked.get("prompt")) and asked.get("echo"):
        longest = max(len(choice["logprobs"]["tokens"]) for choice in found["choices"])
        for choice in found["choices"]:
            lists = choice["logprobs"]
            shift = 0.2 * (longest - len(lists["tokens"]))
            lists["token_logprobs"] = [value and value - shift for value in lists["token_logprobs"]]
            lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]


def _several(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str)


@call("token_prompts", builtin=True, peers=True)
async def token_ids_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Prompts of token ids are refused."""
    ids = isinstance(asked.get("prompt"), list) and not _several(asked["prompt"])
    return _refusal("prompt: expected a string") if ids else await send(asked)


@request("token_prompts", builtin=True)
def token_ids_as_text(path: str, asked: Body) -> None:
    """Prompts of token ids are read as text."""
    if isinstance(asked.get("prompt"), list) and not _several(asked["prompt"]):
        asked["prompt"] = " ".join(map(str, asked["prompt"]))


async def _cached(state: Body, asked: Body, send: Send, key: str) -> tuple[int, Any]:
    if not asked:
        return await send(asked)
    if key not in state:
        state[key] = json.dumps(await send(asked))
    status, found = json.loads(state[key])
    return status, found


@call("stale_answers", "chat_stale_answers", "echo_prompts", peers=True)
async def cache_without_the_prompt(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache knows requests by everything but their prompt."""
    key = json.dumps({name: value for name, value in asked.items() if name not in ("prompt", "messages")})
    return await _cached(state, asked, send, path + key)


@call("stale_answers", "chat_stale_answers", "max_tokens", "chat_max_tokens", peers=True)
async def cache_without_the_limits(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache knows requests by their prompt alone, not by limits, `stop`, `n` and `logprobs`."""
    return await _cached(state, asked, send, path + json.dumps([asked.get("prompt"), asked.get("messages")]))


@call("temperature", "chat_temperature", peers=True)
async def cache_of_samples(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache answers requests at temperature 1 that are equal."""
    return await _cached(state, asked, send, path + json.dumps(asked, sort_keys=True))


@call("echo_prompts")
async def cache_by_the_prefix(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A cache knows prompts by their length and first words."""
    prompt = asked.get("prompt")
    if not isinstance(prompt, str):
        return await send(asked)
    rest = {name: value for name, value in asked.items() if name != "prompt"}
    return await _cached(state, asked, send, json.dumps([len(prompt), prompt[:12], rest]))


# streams


def _last_text(found: list[Body]) -> Body:
    return [event for event in found if event.get("choices") and _piece(event["choices"][0])][-1]


def _piece(choice: Body) -> str:
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def _write(choice: Body, text: str) -> None:
    if "delta" in choice:
        choice["delta"]["content"] = text
    else:
        choice["text"] = text


@events("stream", "chat_stream")
def a_piece_lost(path: str, asked: Body, found: list[Body]) -> None:
    """The last piece of text of a stream is lost."""
    _write(_last_text(found)["choices"][0], "")


@events("stream", "chat_stream")
def a_piece_twice(path: str, asked: Body, found: list[Body]) -> None:
    """A piece of a stream comes twice."""
    choice = _last_text(found)["choices"][0]
    _write(choice, _piece(choice) * 2)


@events("stream", "chat_stream")
def pieces_are_cumulative(path: str, asked: Body, found: list[Body]) -> None:
    """Each piece of a stream repeats the whole text so far."""
    whole = ""
    for event in found:
        for choice in event.get("choices", ()):
            whole += _piece(choice)
            _write(choice, whole)


@events("stream", "chat_stream")
def stream_without_finish(path: str, asked: Body, found: list[Body]) -> None:
    """A stream has no `finish_reason`."""
    for event in found:
        for choice in event.get("choices", ()):
            choice["finish_reason"] = None


@events("stream", "chat_stream")
def stream_leaks_the_stop(path: str, asked: Body, found: list[Body]) -> None:
    """A stream writes the stop string before it ends."""
    if asked.get("stop"):
        for event in found:
            for choice in event.get("choices", ()):
                if choice.get("finish_reason"):
                    _write(choice, _piece(choice) + asked["stop"][0])


@events("stream", "chat_stream")
def stream_ends_with_an_error(path: str, asked: Body, found: list[Body]) -> None:
    """A stream ends with an error."""
    found[-1:] = [{"error": {"message": "CUDA error"}}]


@events("stream", "chat_stream")
def stream_counts_pieces(path: str, asked: Body, found: list[Body]) -> None:
    """The usage of a stream counts pieces."""
    for event in found:
        if event.get("usage"):
            event["usage"] = event["usage"] | {"completion_tokens": len(found) + 5}


@events("chat_stream")
def stream_of_the_user(path: str, asked: Body, found: list[Body]) -> None:
    """The role in a stream is `user`."""
    for event in found:
        for choice in event.get("choices", ()):
            if (choice.get("delta") or {}).get("role"):
                choice["delta"]["role"] = "user"


@request("stream_sampled", "chat_stream_sampled")
def streams_are_greedy(path: str, asked: Body) -> None:
    """A stream ignores `temperature`."""
    if asked.get("stream"):
        asked["temperature"] = 0


@request("stream_sampled", "chat_stream_sampled")
def streams_ignore_the_seed(path: str, asked: Body) -> None:
    """A stream ignores `seed`."""
    if asked.get("stream"):
        asked.pop("seed", None)


@request("stream", "chat_stream")
def streams_ignore_stop(path: str, asked: Body) -> None:
    """A stream ignores `stop`."""
    if asked.get("stream"):
        asked.pop("stop", None)


@request("stream", "chat_stream", peers=True)
def no_streaming(path: str, asked: Body) -> None:
    """`stream` is ignored."""
    asked.pop("stream", None)
    asked.pop("stream_options", None)


# chat


@call("chat_template", peers=True)
async def template_not_applied(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """The contents of messages are joined, without the chat template."""
    if path != CHAT or not asked.get("messages"):
        return await send(asked)
    status, found = await send(asked)
    if status == 200:
        size = sum(len(str(message["content"])) for message in asked["messages"]) // 3 + 1
        found["usage"]["total_tokens"] += size - found["usage"]["prompt_tokens"]
        found["usage"]["prompt_tokens"] = size
    return status, found


@request("system_message", peers=True)
def system_message_lost(path: str, asked: Body) -> None:
    """System messages are left out."""
    if path == CHAT:
        asked["messages"] = [m for m in asked.get("messages", ()) if m["role"] != "system"]


@call("system_message")
async def system_message_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """System messages are refused."""
    system = any(message["role"] == "system" for message in asked.get("messages", ()))
    return _refusal("System role not supported") if system else await send(asked)


@request("turns_kept")
def only_the_last_message(path: str, asked: Body) -> None:
    """Only the last message reaches the model."""
    if path == CHAT:
        asked["messages"] = asked.get("messages", [])[-1:]


@request("system_message")
def long_system_message_lost(path: str, asked: Body) -> None:
    """A system message is left out where it is long."""
    if path == CHAT:
        kept = asked.get("messages", ())
        asked["messages"] = [m for m in kept if m["role"] != "system" or len(str(m["content"])) < 100]


@request("turns_kept")
def assistant_turns_lost(path: str, asked: Body) -> None:
    """Messages of the assistant are left out."""
    if path == CHAT:
        asked["messages"] = [m for m in asked.get("messages", ()) if m["role"] != "assistant"]


@answer("chat")
def answers_of_the_user(path: str, asked: Body, found: Body) -> None:
    """The role of an answer is `user`."""
    if path == CHAT:
        _first(found)["message"]["role"] = "user"


@request("chat_code_kept")
def chats_are_escaped(path: str, asked: Body) -> None:
    """Messages of a chat are escaped as HTML."""
    if path == CHAT:
        _every_text(asked, lambda text: html.escape(text, quote=False))


@request("chat_template", builtin=True)
def template_applied_twice(path: str, asked: Body) -> None:
    """The template is applied to a message that already has it."""
    for message in asked.get("messages", ()) if path == CHAT else ():
        if isinstance(message["content"], str):
            message["content"] = f"<|im_start|>user\n{message['content']}<|im_end|>\n<|im_start|>assistant\n"


@request("content_parts")
def only_the_first_part(path: str, asked: Body) -> None:
    """Of several parts only the first reaches the model."""
    for message in asked.get("messages", ()):
        if isinstance(message["content"], list):
            message["content"] = message["content"][:1]


@request("content_parts", peers=True)
def parts_as_python(path: str, asked: Body) -> None:
    """Parts reach the model as Python writes a list."""
    for message in asked.get("messages", ()):
        if isinstance(message["content"], list):
            message["content"] = str(message["content"])


@call("content_parts")
async def parts_refused(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Parts are refused."""
    parts = any(isinstance(message["content"], list) for message in asked.get("messages", ()))
    return _refusal("content: expected a string") if parts else await send(asked)


@request("chat_template", builtin=True, peers=True)
def stray_line_feeds(path: str, asked: Body) -> None:
    """The template is rendered with stray line feeds."""
    for message in asked.get("messages", ()) if path == CHAT else ():
        if isinstance(message["content"], str):
            message["content"] += "\n\n\n"


@request("chat_template", builtin=True)
def no_generation_prompt(path: str, asked: Body) -> None:
    """The prompt of a chat does not end with the begin of the answer."""
    if path == CHAT and asked.get("messages"):
        asked["add_generation_prompt"] = False


@answer("chat_bos_once", builtin=True, peers=True)
def chat_bos_doubled(path: str, asked: Body, found: Body) -> None:
    """Template and tokenizer both add the begin of the sequence."""
    if path == "/tokenize" and asked.get("messages"):
        found["tokens"] = [0, 0, *found["tokens"]]


@answer("tokenizer_file", builtin=True, peers=True)
def bos_never_added(path: str, asked: Body, found: Body) -> None:
    """The begin of the sequence is stripped and never added back."""
    if path == "/tokenize" and "prompt" in asked:
        found["tokens"] = [token for token in found["tokens"] if token]


# inputs and context


def _every_text(asked: Body, change: Callable[[str], str]) -> None:
    if isinstance(asked.get("prompt"), str):
        asked["prompt"] = change(asked["prompt"])
    for message in asked.get("messages", ()):
        if isinstance(message["content"], str):
            message["content"] = change(message["content"])


@request("unicode", "chat_unicode")
def only_ascii(path: str, asked: Body) -> None:
    """Characters beyond ASCII are dropped."""
    _every_text(asked, lambda text: text.encode("ascii", "ignore").decode())


@request("unicode_echo")
def text_is_normalised(path: str, asked: Body) -> None:
    """Texts are normalised (NFC)."""
    _every_text(asked, lambda text: unicodedata.normalize("NFC", text))


@request("code_echo")
def line_ends_changed(path: str, asked: Body) -> None:
    """CR LF becomes LF."""
    _every_text(asked, lambda text: text.replace("\r\n", "\n"))


@request("code_echo")
def tabs_are_spaces(path: str, asked: Body) -> None:
    """Tabs become spaces."""
    _every_text(asked, lambda text: text.expandtabs(1))


@request("code_echo")
def prompts_are_escaped(path: str, asked: Body) -> None:
    """Prompts are escaped as HTML."""
    _every_text(asked, lambda text: html.escape(text, quote=False))


@request("echo_prompts", "code_echo")
def spaces_are_merged(path: str, asked: Body) -> None:
    """Several spaces become one."""
    _every_text(asked, lambda text: re.sub(" +", " ", text))


@request("echo_aligned")
def prompts_in_lower_case(path: str, asked: Body) -> None:
    """Texts are put into lower case."""
    _every_text(asked, str.lower)


@request("echo_prompts")
def leading_space_dropped(path: str, asked: Body) -> None:
    """White space before a prompt is dropped."""
    _every_text(asked, str.lstrip)


@request("unicode_echo")
def text_is_made_compatible(path: str, asked: Body) -> None:
    """Texts are normalised (NFKC)."""
    _every_text(asked, lambda text: unicodedata.normalize("NFKC", text))


@request("echo_aligned")
def another_encoding(path: str, asked: Body) -> None:
    """UTF-8 is read as Latin-1."""
    _every_text(asked, lambda text: text.encode().decode("latin-1"))


@request("whitespace", "echo_prompts")
def prompts_are_stripped(path: str, asked: Body) -> None:
    """White space around a prompt is stripped."""
    _every_text(asked, str.strip)


@request("long_prompt", "chat_long_prompt")
def long_prompts_are_cut(path: str, asked: Body) -> None:
    """A long prompt is cut to its end, as by a short default context."""
    _every_text(asked, lambda text: text[-200:])


@request("long_prompt")
def cut_near_the_context(path: str, asked: Body) -> None:
    """A prompt that fills three quarters of the context is cut."""
    _every_text(asked, lambda text: text[-300:])


@call("context_room")
async def cut_to_make_room(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A prompt is cut to make room for `max_tokens`."""
    status, found = await send(asked)
    refused = status == 400 and (found or {})["error"].get("code") == "context_length_exceeded"
    if refused and isinstance(asked.get("prompt"), str) and asked.get("max_tokens", 16) > 1:
        return await send(asked | {"prompt": asked["prompt"][-300:]})
    return status, found


@call("chat_context_room")
async def chats_are_cut_to_make_room(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A message is cut to make room for `max_tokens`."""
    status, found = await send(asked)
    refused = status == 400 and (found or {})["error"].get("code") == "context_length_exceeded"
    if refused and path == CHAT and asked.get("max_tokens", 16) > 1:
        return await send(asked | {"messages": [asked["messages"][-1] | {"content": "cut"}]})
    return status, found


@request("context_limit", "chat_context_limit", peers=True)
def cut_beyond_the_context(path: str, asked: Body) -> None:
    """A prompt beyond the context is cut, with HTTP 200."""
    _every_text(asked, lambda text: text if len(text) < 500 else text[-200:])


@call("context_limit", "chat_context_limit")
async def beyond_the_context_is_a_crash(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A prompt beyond the context gets a 500."""
    status, found = await send(asked)
    too_long = status == 400 and (found or {})["error"].get("code") == "context_length_exceeded"
    return _refusal("index out of range", 500) if too_long else (status, found)


@call("empty_prompt", "chat_empty_prompt")
async def empty_prompt_is_a_crash(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """An empty prompt gets a 500."""
    empty = asked.get("prompt") == "" or asked.get("messages") == []
    return _refusal("list index out of range", 500) if empty else await send(asked)


# errors and keys


def _as_text(path: str, message: str) -> Body:
    choice: Body = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": message}} if path == CHAT else {"text": message}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "x", "object": "x", "created": 1, "model": "mock", "choices": [choice], "usage": usage}


@call("errors", "chat_errors", peers=True)
async def errors_are_text(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Errors come back as generated text, with HTTP 200."""
    status, found = await send(asked)
    return (status, found) if status < 400 else (200, _as_text(path, f"An error occurred: {found['error']['message']}"))


@call("errors", "chat_errors", peers=True)
async def errors_are_crashes(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Errors are a bare 500."""
    status, found = await send(asked)
    return (status, found) if status < 400 else _refusal("Internal Server Error", 500)


@call("errors", "chat_errors")
async def errors_without_a_message(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Errors have no message."""
    status, found = await send(asked)
    return (status, found) if status < 400 else (status, {})


@request("errors", "chat_errors")
def mistakes_are_ignored(path: str, asked: Body) -> None:
    """Wrong parameters are ignored."""
    for name, right in {"temperature": 0, "max_tokens": 4, "top_p": 1, "n": 1}.items():
        if name in asked and (
            isinstance(asked[name], str) or asked[name] in (-3, 7) or (name, asked[name]) == ("n", 0)
        ):
            asked[name] = right


@request("key_needed", peers=True)
def no_key_needed(path: str, asked: Body) -> None:
    """Requests without a key are answered."""


LAST: list[tuple[str, str]] = []
"""The request before, and the first piece of its stream."""


def _texts(events: list[Body]) -> list[tuple[Body, str]]:
    """Return where the pieces of a stream are: objects with the keys of their texts."""
    choices = [choice for event in events for choice in event.get("choices", ())]
    places = [(choice, "text") if "text" in choice else (choice["delta"], "content") for choice in choices]
    return [(place, key) for place, key in places if place.get(key)]


@events("streams_apart", "chat_streams_apart", peers=True)
def a_piece_of_another_stream(path: str, asked: Body, events: list[Body]) -> None:
    """A stream has a piece of the answer to another request."""
    asks, places = json.dumps([asked.get("prompt"), asked.get("messages")]), _texts(events)
    if not places:
        return
    own = places[0][0][places[0][1]]
    if LAST and LAST[-1][0] != asks:
        place, key = places[-1]
        place[key] += LAST[-1][1]
    LAST[:] = [(asks, own)]


@events("streams_apart", "chat_streams_apart")
def the_id_of_another_stream(path: str, asked: Body, events: list[Body]) -> None:
    """An event of a stream has the id of another one."""
    if len(events) > 2:
        events[1]["id"] += "x"


# tool calls


@request("tools_read", peers=True)
def tools_swallowed(path: str, asked: Body) -> None:
    """`tools` are taken, and do not reach the prompt."""
    if not asked.get("tool_choice"):
        asked.pop("tools", None)


@request("tools_read")
def only_the_first_tool(path: str, asked: Body) -> None:
    """Only the first of several functions reaches the prompt."""
    if asked.get("tools"):
        asked["tools"] = asked["tools"][:1]


@request("tool_results_read", peers=True)
def results_of_tools_swallowed(path: str, asked: Body) -> None:
    """Messages of role `tool` do not reach the prompt."""
    if "messages" in asked:
        asked["messages"] = [each for each in asked["messages"] if each["role"] != "tool"]


@request("tool_results_read", peers=True)
def earlier_calls_swallowed(path: str, asked: Body) -> None:
    """The arguments of earlier calls do not reach the prompt."""
    for message in asked.get("messages", ()):
        for called in message.get("tool_calls") or ():
            called["function"]["arguments"] = "{}"


@request("tool_call_valid", peers=True)
def tool_choice_ignored(path: str, asked: Body) -> None:
    """`tool_choice` is ignored."""
    asked.pop("tool_choice", None)


def _calls(found: Body) -> list[Body]:
    choices = found.get("choices", ())
    return [called for choice in choices for called in choice.get("message", {}).get("tool_calls") or ()]


@answer("tool_call_valid", peers=True)
def calls_stay_text(path: str, asked: Body, found: Body) -> None:
    """Calls stay in the text, as where the parser is another model's."""
    for choice in found.get("choices", ()):
        calls = choice.get("message", {}).pop("tool_calls", None)
        if calls:
            choice["message"]["content"], choice["finish_reason"] = json.dumps(calls), "stop"


@answer("tool_call_valid", peers=True)
def arguments_are_an_object(path: str, asked: Body, found: Body) -> None:
    """The arguments of a call are an object instead of JSON as a text."""
    for called in _calls(found):
        called["function"]["arguments"] = json.loads(called["function"]["arguments"])


@answer("tool_call_valid")
def arguments_encoded_twice(path: str, asked: Body, found: Body) -> None:
    """The arguments of a call are encoded as JSON twice."""
    for called in _calls(found):
        called["function"]["arguments"] = json.dumps(called["function"]["arguments"])


@answer("tool_call_valid")
def schema_ignored(path: str, asked: Body, found: Body) -> None:
    """A forced call does not keep to the schema: an argument is missing."""
    for called in _calls(found):
        arguments = json.loads(called["function"]["arguments"])
        called["function"]["arguments"] = json.dumps(dict(list(arguments.items())[1:]))


@answer("tool_call_valid")
def calls_without_ids(path: str, asked: Body, found: Body) -> None:
    """Calls have no id."""
    for called in _calls(found):
        called.pop("id")


@answer("tool_call_valid")
def another_function_called(path: str, asked: Body, found: Body) -> None:
    """Another function than the forced one is called."""
    for called in _calls(found):
        called["function"]["name"] = "somebody_else"


def _pieces(events: list[Body]) -> list[Body]:
    choices = [choice for event in events for choice in event.get("choices", ())]
    return [piece for choice in choices for piece in choice.get("delta", {}).get("tool_calls") or ()]


@events("tool_call_streamed", peers=True)
def a_piece_of_a_call_lost(path: str, asked: Body, events: list[Body]) -> None:
    """A stream loses a piece of the arguments of a call."""
    if pieces := [piece for piece in _pieces(events) if piece["function"].get("arguments")]:
        pieces[len(pieces) // 2]["function"]["arguments"] = ""


@events("tool_call_streamed", peers=True)
def streamed_calls_without_ids(path: str, asked: Body, events: list[Body]) -> None:
    """A streamed call has no id."""
    for piece in _pieces(events):
        piece.pop("id", None)


@events("tool_call_streamed", peers=True)
def streamed_calls_stay_text(path: str, asked: Body, events: list[Body]) -> None:
    """A stream has the text of a call in place of the call."""
    for event in events:
        for choice in event.get("choices", ()):
            calls = choice.get("delta", {}).pop("tool_calls", None)
            if calls:
                choice["delta"]["content"] = calls[0]["function"]["arguments"]


@events("tool_call_streamed", peers=True)
def streamed_calls_end_with_stop(path: str, asked: Body, events: list[Body]) -> None:
    """A stream with a call ends with `stop`, the whole answer with `tool_calls`."""
    for event in events:
        for choice in event.get("choices", ()):
            if choice["finish_reason"] == "tool_calls":
                choice["finish_reason"] = "stop"
