"""Every request keeps its own parameters, however it is batched."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.contract.conftest import Api

PROMPTS = ("12+34=", "7+5=12", "a", "The quick brown fox", "99")


def ask(i: int) -> dict[str, object]:
    """Return a request that differs from the others in every way that could be mixed up."""
    body: dict[str, object] = {
        "prompt": PROMPTS[i % len(PROMPTS)],
        "max_tokens": 1 + i % 13,
        "temperature": (0, 0.5, 1, 2)[i % 4],
        "seed": i // 2,
        "top_p": (1, 0.9, 0.5)[i % 3],
        "top_k": (0, 5, 40)[i % 3],
        "n": 1 + i % 2,
        "ignore_eos": i % 3 != 0,
    }
    body |= {"logprobs": i % 4} if i % 2 else {}
    body |= {"echo": True} if i % 5 == 0 else {}
    body |= {"stop": ["=", "1"][: 1 + i % 2]} if i % 4 == 1 else {}
    body |= {"presence_penalty": 1.5, "frequency_penalty": 0.5} if i % 7 == 0 else {}
    return body


def facts(body: dict) -> tuple[object, list[float]]:
    """Return what must be equal, text, tokens and counts; and the log-probabilities, which a batch rounds its way."""
    choices, values = [], []
    for choice in body["choices"]:
        logprobs = choice["logprobs"] or {}
        known = [value is not None for value in logprobs.get("token_logprobs", ())]
        choices.append((choice["text"], choice["finish_reason"], logprobs.get("tokens"), known))
        values += [value for value in logprobs.get("token_logprobs", ()) if value is not None]
    return (choices, body["usage"]), values


async def test_concurrent_requests_equal_the_same_requests_alone(api: Api) -> None:
    asks = [ask(i) for i in range(24)]
    together = await asyncio.gather(*(api.complete(**body) for body in asks))
    for body, mixed in zip(asks, together, strict=True):
        (said, logprobs), (said_alone, logprobs_alone) = facts(mixed), facts(await api.complete(**body))
        assert said == said_alone, body
        assert logprobs == pytest.approx(logprobs_alone, abs=1e-4), body


async def test_sixteen_clients_with_two_limits(api: Api) -> None:
    limits = [3, 11] * 8
    bodies = await asyncio.gather(*(api.complete(max_tokens=n, ignore_eos=True) for n in limits))
    assert [body["usage"]["completion_tokens"] for body in bodies] == limits
    assert all(body["choices"][0]["finish_reason"] == "length" for body in bodies)
