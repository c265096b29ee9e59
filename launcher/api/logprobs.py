"""Log-probabilities in the two formats of OpenAI's API.

Completions have alternatives in an object with the tokens' names as keys, where two tokens may have the same name. The
chosen token keeps its name, then the likelier ones theirs; a further token of that name becomes ``token_id:<id>``. So
no alternative is lost, and the largest value is that of the best token. Minus infinity is not JSON; it becomes
`LOWEST`, as in OpenAI's API.
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
    """A token, and the offset in the returned text of the character with the token's first byte."""

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
    """Return a value that JSON can represent. Raises `ArithmeticError` for NaN: the engine is broken."""
    if value is None or value > LOWEST:
        return value
    if value != value:
        raise ArithmeticError("the engine returned a log-probability that is not a number")
    return LOWEST
