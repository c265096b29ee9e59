"""Requests and events as tensors and request parameters of Triton (see docs/pytriton.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from launcher.backends.pytriton.event_queue import Event
from launcher.core.errors import EngineUnavailable, GrammarRefused, QueueFull
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling, TokenLogprob, TokenOutput
from launcher.engines.sampling_bounds import SAMPLING_BOUNDS, is_bias

if TYPE_CHECKING:
    import numpy as np

Arrays = dict[str, Any]
"""Numpy arrays by the name of their tensor."""


DEFAULTS = {field.name: getattr(Sampling(), field.name) for field in fields(Sampling)}


def parameters(sampling: Sampling) -> dict[str, Json]:
    """Return the request parameters that differ from their defaults."""
    changed = {name: value for name in DEFAULTS if (value := getattr(sampling, name)) != DEFAULTS[name]}
    if "logit_bias" in changed:
        changed["logit_bias"] = json.dumps({str(token): bias for token, bias in sampling.logit_bias.items()})
    return changed


def given(parameters: Mapping[str, Json], data: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Json]:
    """Return the request parameters, and those of the tensor ``sampling``, for clients without request parameters."""
    if "sampling" not in data:
        return dict(parameters)
    text = data["sampling"].ravel()[0].decode("utf-8")
    try:
        found: dict[str, Json] = dict(parameters) | json.loads(text)
        return found
    except (TypeError, ValueError):
        raise ValueError(f"sampling={text!r}: must be a JSON object") from None


def sampling(given: Mapping[str, Json]) -> Sampling:
    """Read request parameters. Raises `ValueError` with the parameter, its value and its bounds."""
    return Sampling(**{name: _checked(name, value) for name, value in given.items()})


def _checked(name: str, value: Json) -> Json:
    if name == "logit_bias":
        return _bias(value)
    if name == "grammar" and isinstance(value, str | None):
        return value
    if name not in SAMPLING_BOUNDS:
        raise ValueError(f"{name}: unknown parameter; expected one of id, {', '.join(DEFAULTS)}")
    bounds = SAMPLING_BOUNDS[name]
    if not bounds.contain(value):
        raise ValueError(f"{name}={value!r}: must be {bounds}")
    return float(value) if bounds.kind is float and value is not None else value


def _bias(text: Json) -> dict[int, float]:
    try:
        biases = json.loads(text) if isinstance(text, str) else text
        found = {int(token): bias for token, bias in biases.items()}
    except (TypeError, ValueError, AttributeError):
        found = {0: None}
    if not all(map(is_bias, found.values())):
        raise ValueError(f"logit_bias={text!r}: must be a JSON object of token ids and numbers from -100 to 100")
    return {token: float(bias) for token, bias in found.items()}


def prompt(data: Mapping[str, np.ndarray[Any, Any]], runner: AsyncEngine) -> tuple[int, ...]:
    """Return the token ids of the tensor ``tokens`` or ``text``. Raises `ValueError`."""
    if ("tokens" in data) == ("text" in data):
        raise ValueError("the request needs one of the tensors tokens (INT32) and text (BYTES)")
    if "text" in data:
        try:
            text = data["text"].ravel()[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text is not UTF-8: {error}") from None
        return tuple(runner.tokenizer.encode(text))
    return tuple(data["tokens"].ravel().tolist())


def check(tokens: Sequence[int], limits: Sampling, runner: AsyncEngine) -> None:
    """Raise `ValueError` for a prompt that the model cannot continue."""
    size = runner.vocab_size
    for token in (min(tokens, default=-1), max(tokens, default=-1), *limits.logit_bias):
        if not 0 <= token < size:
            raise ValueError(f"the prompt needs tokens and all must be from 0 to {size - 1}, got {token}")
    if len(tokens) + limits.max_tokens > runner.context_length:
        raise ValueError(
            f"the context length is {runner.context_length} tokens, but the prompt has {len(tokens)}"
            f" and max_tokens={limits.max_tokens}"
        )


def answer(event: TokenOutput) -> Arrays:
    """Return an event as typed tensors, without those that the request does not ask for."""
    import numpy as np

    found: Arrays = {"tokens": np.array([t.token for t in event.tokens], np.int32)}
    found |= _logprobs("", event.tokens)
    found |= _logprobs("prompt_", (event.prompt or ())[1:])
    if event.finish:
        found["finish"] = text(event.finish)
    return found


def text(value: str) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array([value.encode()], dtype=object)


def _logprobs(prefix: str, tokens: Sequence[TokenLogprob]) -> Arrays:
    import numpy as np

    if not tokens or tokens[0].logprob is None:
        return {}
    found = {f"{prefix}logprobs": np.array([t.logprob for t in tokens], np.float64)}
    if tokens[0].top:
        best = np.array([t.top for t in tokens], np.float64)
        found[f"{prefix}top_tokens"] = best[:, :, 0].astype(np.int32)
        found[f"{prefix}top_logprobs"] = np.ascontiguousarray(best[:, :, 1])
    return found


def pack_requests(generations: Iterable[GenerationRequest]) -> bytes:
    """Return generations as JSON, for the UINT8 tensor ``batch``."""
    return to_json([[g.id, g.prompt, parameters(g.sampling), g.final_only] for g in generations])


def unpack_requests(batch: bytes) -> list[tuple[str, tuple[int, ...], dict[str, Json], bool]]:
    """Return the id, the prompt, the sampling parameters and ``final_only`` of each."""
    return [(id, tuple(prompt), asked, final_only) for id, prompt, asked, final_only in from_json(batch)]


def pack(number: int, events: Iterable[Event]) -> bytes:
    """Return the events of many sequences as JSON, for the UINT8 tensor ``feed``, with the number of the response."""
    rows = [_row(event.id, event.what) for event in events]
    return to_json([number, rows], inf_nan_mode="constants")


def _row(id: str, what: TokenOutput | Exception) -> Json:
    if isinstance(what, TokenOutput):
        return [id, _plain(what.tokens), None if what.prompt is None else _plain(what.prompt), what.finish]
    return [id, type(what).__name__, str(what), getattr(what, "retry_after_s", None), None]


def _plain(tokens: Sequence[TokenLogprob]) -> Json:
    if any(t.logprob is not None or t.top for t in tokens):
        return [[t.token, t.logprob, t.top] for t in tokens]
    return [t.token for t in tokens]


def unpack(packed: bytes) -> tuple[int, list[Event]]:
    """Parse the output of `pack`."""
    number, rows = from_json(packed, allow_inf_nan=True)
    return number, [_event(row) for row in rows]


def _event(row: Json) -> Event:
    if len(row) == 4:
        id, tokens, prompt, finish = row
        return Event(id, TokenOutput(_tokens(tokens), None if prompt is None else _tokens(prompt), finish))
    id, kind, message, retry_after_s, _ = row
    return Event(id, _error(kind, message, retry_after_s))


def _tokens(rows: Json) -> tuple[TokenLogprob, ...]:
    if not rows or type(rows[0]) is int:
        return tuple(map(TokenLogprob, rows))
    return tuple(TokenLogprob(token, logprob, tuple(map(tuple, top))) for token, logprob, top in rows)


def _error(kind: str, message: str, retry_after_s: float | None) -> Exception:
    if kind == "QueueFull":
        return QueueFull(message, retry_after_s or 1.0)
    known = {each.__name__: each for each in (EngineUnavailable, GrammarRefused, ValueError)}
    return known[kind](message) if kind in known else RuntimeError(f"{kind}: {message}")
