"""Checks that log-probabilities of the prompt are aligned, and equal to those of a direct forward pass."""

from __future__ import annotations

import asyncio

from launcher.core import Json
from launcher.validate.check import Failure, Named, Need, NotApplicable, Subject

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


async def echo_aligned(subject: Subject) -> str:
    """With echo, every list of logprobs has an entry per prompt token and per generated token; the first is null."""
    body = await _score(subject, subject.settings.prompt)
    choice, usage = body["choices"][0], body["usage"]
    expected = usage["prompt_tokens"] + usage["completion_tokens"]
    lists = {name: choice["logprobs"][name] for name in LISTS}
    for name, values in lists.items():
        if len(values) != expected:
            raise Failure(f"logprobs.{name} has {len(values)} entries for {expected} tokens")
    if not choice["text"].startswith(subject.settings.prompt):
        raise Failure(f"echo: the text starts with {choice['text'][:40]!r}, not with the prompt")
    if lists["token_logprobs"][0] is not None or lists["top_logprobs"][0] is not None:
        raise Failure("logprobs of the first prompt token must be null")
    _check_values(lists)
    return f"{expected} entries in each list"


def _check_values(lists: dict[str, Json]) -> None:
    for i, (value, top) in enumerate(zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:], strict=True), start=1):
        if value is None or value > 1e-6:
            raise Failure(f"logprobs.token_logprobs[{i}] is {value}, expected a number that is not positive")
        if top and value > max(top.values()):
            raise Failure(f"logprobs.token_logprobs[{i}] is {value}, above the best alternative {max(top.values())}")


async def equal_to_forward(subject: Subject) -> str:
    """Compare with one plain forward pass of the same weights, asked alone and among other requests."""
    if not subject.endpoint.ours:
        raise NotApplicable("a server of another program offers no direct forward pass")
    tokens = await _tokens(subject)
    reference = await subject.client.post(f"{subject.endpoint.root}/reference_logprobs", {"tokens": tokens})
    if not reference.ok:
        raise NotApplicable(f"this engine offers no direct forward pass (HTTP {reference.status})")
    expected = [v for v in reference.body["token_logprobs"] if v is not None]
    bodies = await asyncio.gather(
        *(_score(subject, tokens[:n]) for n in (len(tokens), len(tokens) - 1, 3, len(tokens)))
    )
    worst = max(_difference(body, expected) for body in bodies)
    if worst > subject.settings.tolerance:
        accepted = subject.settings.tolerance
        raise Failure(f"log-probabilities differ by {worst:.2e} from a direct forward pass, accepted is {accepted:g}")
    return f"largest difference {worst:.1e} over {len(expected)} tokens"


async def _tokens(subject: Subject) -> list[int]:
    response = await subject.client.post(f"{subject.endpoint.root}/tokenize", {"prompt": subject.settings.prompt})
    if not response.ok:
        raise Failure(f"/tokenize answered HTTP {response.status}")
    return [int(t) for t in response.body["tokens"]]


async def _score(subject: Subject, prompt: str | list[int]) -> Json:
    return await subject.complete(prompt=prompt, echo=True, logprobs=1, max_tokens=1)


def _difference(body: Json, expected: list[float]) -> float:
    """Return the largest absolute difference over the prompt's tokens but the first."""
    prompt = body["usage"]["prompt_tokens"]
    seen = body["choices"][0]["logprobs"]["token_logprobs"][1:prompt]
    if len(seen) != prompt - 1:
        raise Failure(f"{len(seen)} log-probabilities for a prompt of {prompt} tokens")
    return max((abs(a - b) for a, b in zip(seen, expected, strict=False)), default=0.0)


CHECKS = (
    Named("echo aligned", Need.prompt_logprobs, echo_aligned),
    Named("equal to forward pass", Need.prompt_logprobs, equal_to_forward),
)
