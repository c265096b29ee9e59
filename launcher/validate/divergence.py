"""Where two greedy answers to one request diverge, and how close the two tokens are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.core.types import Json

ALTERNATIVES = 5
"""The number of alternatives to request at each position: OpenAI's limit for completions."""
END = "the end"
"""The name for the end of an answer where another one continues."""


@dataclass(frozen=True)
class ScoredToken:
    """A generated token with its log-probability, and those of the likeliest tokens at its position."""

    token: str
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True)
class Divergence:
    """The first position at which two answers have different tokens, and how far apart those are, in nats.

    ``gap`` is the larger of what the two answers say; None where one of them does not list the other's token.
    """

    position: int
    tokens: tuple[str, str]
    gap: float | None

    def __str__(self) -> str:
        one, other = self.tokens
        apart = "of which one is not among the likeliest" if self.gap is None else f"{self.gap:.2g} nats apart"
        return f"token {self.position + 1} is {one!r} or {other!r}, {apart}"


def scored_tokens(body: Json) -> list[ScoredToken] | None:
    """Return the tokens of a completion with their alternatives; None for a server that gives none."""
    found = body["choices"][0].get("logprobs")
    if not found or not found.get("top_logprobs"):
        return None
    rows = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    return [ScoredToken(str(token), float(logprob), dict(top or {})) for token, logprob, top in rows]


def divergence(one: list[ScoredToken], other: list[ScoredToken]) -> Divergence | None:
    """Return where two answers diverge; None if they have the same tokens."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a.token != b.token:
            return Divergence(at, (a.token, b.token), _gap(a, b))
    if len(one) == len(other):
        return None
    at = min(len(one), len(other))
    going_on = (one if len(one) > len(other) else other)[at]
    return Divergence(at, (going_on.token, END), _lead(going_on))


def _gap(a: ScoredToken, b: ScoredToken) -> float | None:
    """Return the largest lead of an answer's own token over the other's, or of another token over its own."""
    if b.token not in a.top or a.token not in b.top:
        return None
    behind = max(max(step.top.values()) - step.logprob for step in (a, b))
    return max(a.logprob - a.top[b.token], b.logprob - b.top[a.token], behind)


def _lead(step: ScoredToken) -> float | None:
    """Return the lead of a token over the next likeliest, which an answer that ends here must have made up for."""
    others = [logprob for token, logprob in step.top.items() if token != step.token]
    return step.logprob - max(others) if others else None
