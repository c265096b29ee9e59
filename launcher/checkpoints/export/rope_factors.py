"""Rotary factors as the scaling that made them: what a GGUF file keeps of Llama 3.1 and 3.2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from launcher.checkpoints.base import Architecture
from launcher.core.types import Json

LOW, HIGH, TRAINED = 1.0, 4.0, 8192
"""The numbers of every Llama 3.1 and 3.2; only the factor differs."""
PRECISION = 1e-6
"""How far a factor in fp32 may be from what the numbers make."""


def as_scaling(a: Architecture) -> Architecture:
    """Return the model with a scaling in place of its factors, if one makes exactly these; else the model as it is."""
    if not a.rope_factors or a.rope_scaling:
        return a
    factor = float(round(max(a.rope_factors)))
    made = list(_factors(a, factor))
    if factor <= 1 or not all(math.isclose(x, y, rel_tol=PRECISION) for x, y in zip(a.rope_factors, made, strict=True)):
        return a
    scaling: dict[str, Json] = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": TRAINED,
    }
    return replace(a, rope_factors=None, rope_scaling=scaling)


def _factors(a: Architecture, factor: float) -> Iterator[float]:
    """Yield the divisor of each frequency, as llama.cpp's converter computes it."""
    rotated = int(a.kv_channels * a.rotary_percent)
    for pair in range(rotated // 2):
        wavelength = 2 * math.pi * a.rotary_base ** (2 * pair / rotated)
        if wavelength < TRAINED / HIGH:
            yield 1.0
        elif wavelength > TRAINED / LOW:
            yield factor
        else:
            smooth = (TRAINED / wavelength - LOW) / (HIGH - LOW)
            yield 1 / ((1 - smooth) / factor + smooth)
