"""The values that sampling parameters may have, for each server in front of an engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from launcher.core.types import Json

MAX_SEED = 2**63 - 1
MAX_BIAS = 100.0


@dataclass(frozen=True)
class Bounds:
    """The type of a parameter with its least and largest value; ``optional`` allows null."""

    kind: type[int] | type[float]
    low: float
    high: float
    optional: bool = False

    def __str__(self) -> str:
        return "a boolean" if self.kind is bool else f"{self.kind.__name__} from {self.low:g} to {self.high:g}"

    def contain(self, value: Json) -> bool:
        if value is None:
            return self.optional
        if type(value) is not self.kind and not (self.kind is float and type(value) is int):
            return False
        return bool(self.low <= value <= self.high) and value != math.inf


SAMPLING_BOUNDS = {
    "max_tokens": Bounds(int, 0, math.inf),
    "temperature": Bounds(float, 0, math.inf),
    "top_p": Bounds(float, 0, 1),
    "top_k": Bounds(int, 0, math.inf),
    "seed": Bounds(int, 0, MAX_SEED, optional=True),
    "presence_penalty": Bounds(float, -2, 2),
    "frequency_penalty": Bounds(float, -2, 2),
    "logprobs": Bounds(int, 0, math.inf, optional=True),
    "prompt_logprobs": Bounds(int, 0, math.inf, optional=True),
    "ignore_eos": Bounds(bool, 0, 1),
}
"""Each parameter of `Sampling` but ``logit_bias``, whose values `is_bias` checks."""


def is_bias(value: Json) -> TypeGuard[float]:
    return not isinstance(value, bool) and isinstance(value, int | float) and -MAX_BIAS <= value <= MAX_BIAS
