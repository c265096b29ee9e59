"""The check of what rounding does in the served model, which the tolerance of the other checks follows from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress

from launcher.core.errors import TransportError
from launcher.core.types import Json
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Failure, Measured, NotApplicable
from launcher.validate.tolerance import WIDER, Loaded, Tolerance, assumed, given, measured

PROBES = (
    "Water boils at 100 degrees and freezes at 0. Paris is the capital of France; Rome is that of Italy. 12+30=42.",
    'She said: "We\'ll be there at noon", but nobody came before 14:05 - the bridge over the river was closed again.',
)
"""Texts whose log-probabilities are computed twice, beside the settings' prompt: enough tokens for a steady figure."""
ROOM = 8
"""So many tokens can follow each text within the context."""


async def rounding(subject: CheckContext) -> Measured:
    """A plain forward pass must be as exact as its type allows; how exact it is decides the tolerance."""
    found = await tolerance(subject)
    if found.beyond:
        raise Failure(
            f"a plain forward pass in {found.dtype} is off by {found.typical_rounding:.2g} nats in the median from the "
            f"same pass in {found.exact_dtype}; rounding explains at most {found.most:.2g}"
        )
    return Measured(f"log-probabilities may differ by {found}", found.to_json())


async def tolerance(subject: CheckContext) -> Tolerance:
    """Return how far log-probabilities of this endpoint may be apart; it is found out once."""
    if not subject.tolerances:
        subject.tolerances.append(await _derived(subject))
    return subject.tolerances[0]


async def _derived(subject: CheckContext) -> Tolerance:
    engine = Loaded.of(await _engine(subject))
    if subject.settings.tolerance is not None:
        return given(subject.settings.tolerance, engine.dtype)
    if not subject.endpoint.is_builtin:
        return assumed(engine.dtype, "a server of another program offers no plain forward pass to measure it with")
    if engine.dtype not in WIDER:
        return assumed(engine.dtype, "there is no wider type to measure it with")
    patience_s = subject.settings.timeout_s / 2
    try:
        async with asyncio.timeout(patience_s):
            passes = [await _passes(subject, tokens) for tokens in await texts(subject)]
            return measured(engine, [pair for found in passes for pair in found])
    except NotApplicable as reason:
        return assumed(engine.dtype, str(reason))
    except TimeoutError:
        return assumed(engine.dtype, f"measuring it took longer than {patience_s:g} s, half of validate.timeout_s")


async def _engine(subject: CheckContext) -> dict[str, Json]:
    """Return what the server says of its engine; nothing for one that has no such route."""
    with suppress(TransportError):
        response = await subject.client.get(f"{subject.endpoint.root}/engine")
        if response.ok and isinstance(response.body, dict):
            return response.body
    return {}


async def texts(subject: CheckContext) -> list[list[int]]:
    """Return the tokens of the settings' prompt, then of `PROBES`, each as long as the context allows."""
    return [await _tokens(subject, text) for text in (subject.settings.prompt, *PROBES)]


async def _tokens(subject: CheckContext, text: str) -> list[int]:
    response = await subject.client.post(f"{subject.endpoint.root}/tokenize", {"prompt": text})
    if not response.ok:
        raise Failure(f"/tokenize answered HTTP {response.status}")
    return [int(token) for token in response.body["tokens"][: response.body["max_model_len"] - ROOM]]


async def reference(subject: CheckContext, tokens: list[int], exact: bool = False) -> Mapping[str, Json]:
    """Return what ``/reference_logprobs`` says; `NotApplicable` for an engine that has no plain forward pass."""
    url = f"{subject.endpoint.root}/reference_logprobs"
    answer = await subject.client.post(url, {"tokens": tokens, "exact": exact})
    if not answer.ok:
        raise NotApplicable(f"this engine offers no direct forward pass (HTTP {answer.status})")
    return dict(answer.body)


async def _passes(subject: CheckContext, tokens: list[int]) -> list[tuple[float, float]]:
    """Return the log-probability of each token but the first, by a plain pass and by an exact one.

    Raises `NotApplicable` with the reason where the engine cannot compute one of them.
    """
    body = await reference(subject, tokens, exact=True)
    if body["exact_token_logprobs"] is None:
        raise NotApplicable(f"the pass in a wider type cannot be computed: {body['exact_reason']}")
    plain, exact = ([_number(v) for v in body[key][1:]] for key in ("token_logprobs", "exact_token_logprobs"))
    return list(zip(plain, exact, strict=True))


def _number(value: Json) -> float:
    """Return a log-probability; what is no number in JSON (null for NaN) is infinitely far from any."""
    return float(value) if isinstance(value, int | float) else -math.inf


ID = "rounding"
CHECKS = (CheckDefinition(ID, "rounding", Capability.completions, rounding),)
