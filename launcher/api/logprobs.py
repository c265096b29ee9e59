"""Log-probabilities in the two forms of OpenAI's API.

Completions name alternatives by their text in an object, where two tokens of one name would overwrite each other: the
chosen token keeps its name, then the better ones theirs, and a token whose name is taken is called
``token_id:<id>``. So no alternative is lost and the largest value is that of the best token. A log-probability of minus
infinity, which JSON cannot say, is `LOWEST`, as in OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.engines.base import TokenLogprob

LOWEST = -9999.0


@dataclass(frozen=True, slots=True)
class TokenWithOffset:
    """A token with the offset, in characters of the returned text, of the character that its first byte is part of."""

    offset: int
    token: TokenLogprob


def for_completions(placed: Iterable[TokenWithOffset], tokenizer: Tokenizer) -> dict[str, list[Json]]:
    """Return ``tokens``, ``token_logprobs``, ``top_logprobs``, ``text_offset``: aligned lists, null where unknown."""
    placed = list(placed)
    return {
        "tokens": [tokenizer.token_name(p.token.token) for p in placed],
        "token_logprobs": [_finite(p.token.logprob) for p in placed],
        "top_logprobs": [_top(p.token, tokenizer) for p in placed],
        "text_offset": [p.offset for p in placed],
    }


def for_chat(placed: Iterable[TokenWithOffset], tokenizer: Tokenizer, top: int) -> dict[str, Json]:
    """Return ``{"content": [...]}``: each token with its bytes (none for a special token) and ``top`` alternatives."""
    content = [
        _entry(p.token.token, p.token.logprob, tokenizer)
        | {"top_logprobs": [_entry(token, value, tokenizer) for token, value in p.token.top[:top]]}
        for p in placed
    ]
    return {"content": content, "refusal": None}


def _entry(token: int, logprob: float | None, tokenizer: Tokenizer) -> dict[str, Json]:
    return {
        "token": tokenizer.token_name(token),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def _top(chosen: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float | None] | None:
    if chosen.logprob is None:
        return None
    taken = tokenizer.token_name(chosen.token)
    named: dict[str, float | None] = {}
    for token, value in chosen.top:
        name = tokenizer.token_name(token)
        if token != chosen.token and (name == taken or name in named):
            name = f"token_id:{token}"
        named[name] = _finite(value)
    return named if taken in named else named | {taken: _finite(chosen.logprob)}


def _finite(value: float | None) -> float | None:
    """Return a value that JSON can say. Raises `ArithmeticError` for NaN: the engine is broken."""
    if value is None or value > LOWEST:
        return value
    if value != value:
        raise ArithmeticError("the engine returned a log-probability that is not a number")
    return LOWEST
