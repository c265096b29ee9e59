"""Rotary factors as the scaling that made them: what a GGUF file keeps of Llama 3.1 and 3.2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
    made = list(_factors(a, _scaling(factor)))
    if factor <= 1 or not all(math.isclose(x, y, rel_tol=PRECISION) for x, y in zip(a.rope_factors, made, strict=True)):
        return a
    return replace(a, rope_factors=None, rope_scaling=_scaling(factor))


def divisors(a: Architecture) -> list[float]:
    """Return the divisor of each frequency of a model with Llama 3's scaling."""
    return list(_factors(a, a.rope_scaling or {}))


def _scaling(factor: float) -> dict[str, Json]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": TRAINED,
    }


def _factors(a: Architecture, scaling: Mapping[str, Json]) -> Iterator[float]:
    """Yield the divisor of each frequency, as llama.cpp's converter computes it."""
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, trained = (float(scaling[name]) for name in names)
    rotated = int(a.kv_channels * a.rotary_percent)
    for pair in range(rotated // 2):
        wavelength = 2 * math.pi * a.rotary_base ** (2 * pair / rotated)
        if wavelength < trained / high:
            yield 1.0
        elif wavelength > trained / low:
            yield factor
        else:
            smooth = (trained / wavelength - low) / (high - low)
            yield 1 / ((1 - smooth) / factor + smooth)
