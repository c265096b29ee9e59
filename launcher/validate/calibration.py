"""Whether sampling follows the log-probabilities that the server reports: logarithms to another base do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.core.types import Json, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    Measurement,
    NotApplicable,
)
from launcher.validate.divergence import ALTERNATIVES
from launcher.validate.exchange import together

REQUESTS, LENGTH = 12, 16
LEAST_VARIANCE = 4.0
"""With less, too few tokens were in doubt to say anything."""
FAR = 4.5
"""So many standard deviations are no chance: a few times in a million, and a check that fails is made twice."""


@dataclass(frozen=True)
class Position:
    """A sampled token: whether it is among the likeliest, whose log-probabilities are ``top``."""

    inside: bool
    top: tuple[float, ...]


async def calibrated(context: CheckContext) -> Measurement:
    """Sampled at temperature 1, a token must be among the likeliest as often as their probabilities say."""
    bodies = await together([_sampled(context, seed) for seed in range(REQUESTS)])
    positions = [position for body in bodies for position in _positions(body)]
    variance = sum(_mass(one, 1.0) * (1 - _mass(one, 1.0)) for one in positions)
    if variance < LEAST_VARIANCE:
        raise NotApplicable("the model is too sure of each token to compare sampling with log-probabilities")
    seen, expected = sum(one.inside for one in positions), sum(_mass(one, 1.0) for one in positions)
    deviations = (seen - expected) / math.sqrt(variance)
    said = f"{seen} of {len(positions)} sampled tokens are among the likeliest; log-probabilities say {expected:.0f}"
    if abs(deviations) > FAR:
        raise Failure(f"{said}, {_explained(positions, seen)}")
    return Measurement(said, {"deviations": round(deviations, 3)})


async def _sampled(context: CheckContext, seed: int) -> Json:
    return await context.complete(
        prompt="Once", max_tokens=LENGTH, temperature=1, top_p=1, seed=seed, logprobs=ALTERNATIVES
    )


def _positions(body: Json) -> Iterator[Position]:
    lists = body["choices"][0].get("logprobs") or {}
    if not lists.get("top_logprobs"):
        raise NotApplicable("the server gives no alternatives")
    for value, top in zip(lists["token_logprobs"], lists["top_logprobs"], strict=True):
        best = sorted((float(each) for each in top.values()), reverse=True)[:ALTERNATIVES]
        if best:
            yield Position(value >= best[-1] - 1e-6, tuple(best))


def _mass(position: Position, scale: float) -> float:
    """Return the probability of the likeliest tokens, where log-probabilities are ``scale`` times those reported."""
    return min(1.0, sum(math.exp(scale * value) for value in position.top))


def _explained(positions: Sequence[Position], seen: int) -> str:
    """Say which logarithms would explain what was sampled."""
    scale = _fitting(positions, seen)
    base = math.exp(scale)
    if abs(scale - math.log(2)) < 0.12:
        return "as if the logarithms were to the base 2"
    return f"they would fit logarithms to the base {base:.2g}, or a temperature or truncation of its own"


def _fitting(positions: Sequence[Position], seen: int) -> float:
    """Return the scale at which as many are expected as were seen, by bisection: more scale is less probability."""
    low, high = 0.05, 20.0
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(_mass(one, middle) for one in positions) > seen else (low, middle)
    return low


CHECKS = (
    CheckDefinition(
        "calibrated",
        "sampling follows log-probabilities",
        Capability.logprobs,
        calibrated,
        Family.logprobs,
        expected="at temperature 1, tokens come as often as their log-probabilities say: they are natural logarithms",
        effect="scores by log-probabilities are in another unit, and perplexities are wrong by a power; or sampled "
        "answers are those of another temperature",
        remedy="a server with natural logarithms; its defaults of temperature, top_k and min_p",
        severity=Severity.warning,
        after="completion",
    ),
)
