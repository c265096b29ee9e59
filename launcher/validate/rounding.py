"""The check of the served model's rounding errors, from which the tolerance of other checks follows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress

from launcher.core.errors import TransportError
from launcher.core.types import Json
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    Measurement,
    NotApplicable,
)
from launcher.validate.tolerance import WIDER, EngineFacts, Tolerance, assumed, given, measured

PROBES = (
    "Water boils at 100 degrees and freezes at 0. Paris is the capital of France; Rome is that of Italy. 12+30=42.",
    'She said: "We\'ll be there at noon", but they came after 14:05 - the bridge over the river was closed again.',
)
"""Texts, beside ``validate.prompt``, that are computed twice: enough tokens for a stable figure."""
ROOM = 8
"""The number of tokens that fit the context after each text."""


async def rounding(context: CheckContext) -> Measurement:
    """A plain forward pass must be as exact as its type allows; its error sets the tolerance."""
    found = await tolerance(context)
    if found.exceeds_rounding:
        raise Failure(
            f"a plain forward pass in {found.dtype} is off by {found.typical_rounding:.2g} nats in the median from the "
            f"same pass in {found.exact_dtype}; rounding explains at most {found.most:.2g}"
        )
    return Measurement(f"log-probabilities may differ by {found}", found.to_json())


async def tolerance(context: CheckContext) -> Tolerance:
    """Return the tolerance for log-probabilities of this endpoint, measured once."""
    if not context.tolerances:
        context.tolerances.append(await _derived(context))
    return context.tolerances[0]


async def _derived(context: CheckContext) -> Tolerance:
    engine = EngineFacts.of({**context.endpoint.facts, **await _engine(context)})
    if context.settings.tolerance is not None:
        return given(context.settings.tolerance, engine.dtype)
    if not context.endpoint.is_builtin:
        return assumed(engine.dtype, "a server of another program has no plain forward pass to measure it with")
    if engine.dtype not in WIDER:
        return assumed(engine.dtype, "there is no wider type to measure it with")
    patience_s = context.settings.timeout_s / 2
    try:
        async with asyncio.timeout(patience_s):
            passes = [await _passes(context, tokens) for tokens in await texts(context)]
            return measured(engine, [pair for found in passes for pair in found])
    except NotApplicable as reason:
        return assumed(engine.dtype, str(reason))
    except TimeoutError:
        return assumed(engine.dtype, f"measuring it took longer than {patience_s:g} s, half of validate.timeout_s")


async def _engine(context: CheckContext) -> dict[str, Json]:
    """Return the answer of ``/engine``; empty for a server without that route."""
    with suppress(TransportError):
        response = await context.ask.get("/engine")
        if response.ok and isinstance(response.body, dict):
            return response.body
    return {}


async def texts(context: CheckContext) -> list[list[int]]:
    """Return the tokens of ``validate.prompt`` and of `PROBES`, each cut to the context."""
    return [await _tokens(context, text) for text in (context.settings.prompt, *PROBES)]


async def _tokens(context: CheckContext, text: str) -> list[int]:
    response = await context.ask.post("/tokenize", {"prompt": text})
    if not response.ok:
        raise Failure(f"/tokenize answered HTTP {response.status}")
    return [int(token) for token in response.body["tokens"][: response.body["max_model_len"] - ROOM]]


async def reference(context: CheckContext, tokens: list[int], exact: bool = False) -> Mapping[str, Json]:
    """Return the answer of ``/reference_logprobs``. Raises `NotApplicable` without a plain forward pass."""
    answer = await context.ask.post("/reference_logprobs", {"tokens": tokens, "exact": exact})
    if not answer.ok:
        raise NotApplicable(f"this engine has no plain forward pass (HTTP {answer.status})")
    return dict(answer.body)


async def _passes(context: CheckContext, tokens: list[int]) -> list[tuple[float, float]]:
    """Return the log-probability of each token except the first, by a plain pass and by an exact one.

    Raises `NotApplicable` with the reason where the engine cannot compute one of them.
    """
    body = await reference(context, tokens, exact=True)
    if body["exact_token_logprobs"] is None:
        raise NotApplicable(f"the pass in a wider type cannot be computed: {body['exact_reason']}")
    plain, exact = ([_number(v) for v in body[key][1:]] for key in ("token_logprobs", "exact_token_logprobs"))
    return list(zip(plain, exact, strict=True))


def _number(value: Json) -> float:
    """Return a log-probability; null, which stands for NaN, becomes minus infinity."""
    return float(value) if isinstance(value, int | float) else -math.inf


ID = "rounding"
CHECKS = (
    CheckDefinition(
        ID,
        "rounding",
        Capability.completions,
        rounding,
        Family.logprobs,
        expected="a plain forward pass is as exact as its type allows; this sets the tolerance of other checks",
        effect="log-likelihoods are off by more than rounding, and close choices change places",
        remedy="optimizations.dtype, or another engine",
    ),
)
