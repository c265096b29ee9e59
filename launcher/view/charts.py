"""Lays out a quantity over time as one line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.report import formatting

POINTS = 160
"""A line has at most so many points, each the mean of those that it stands for."""
WIDTH, HEIGHT = 600, 80


@dataclass(frozen=True)
class Line:
    """A line in a box of `WIDTH` times `HEIGHT`, with the texts of its ends and of the largest value."""

    points: str
    begin: str
    end: str
    last: str
    most: str


def line(values: Sequence[tuple[float, float | None]], unit: str) -> Line | None:
    """Lay out values at times; None for fewer than two."""
    known = [(at, value) for at, value in values if value is not None]
    if len(known) < 2:
        return None
    shown = _means(known)
    first, last, most = shown[0][0], shown[-1][0], max(value for _, value in shown) or 1.0
    span = (last - first) or 1.0
    places = (f"{WIDTH * (at - first) / span:.1f},{HEIGHT - (HEIGHT - 4) * value / most:.1f}" for at, value in shown)
    now, top = (_text(float(value), unit) for value in (known[-1][1], most))
    return Line(" ".join(places), _clock(first), _clock(last), now, top)


def _text(value: float, unit: str) -> str:
    return formatting.duration(value) if unit == "s" else f"{formatting.number(value)} {unit}"


def _means(known: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(known) // POINTS)
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
