"""How many questions a race needs, over discordances: ``python benchmarks/race.py [QUESTIONS] [RACES]``.

The models differ by five points. The table has the questions that were asked until the race was decided: the mean, and
the most in nine of ten races. Its last column is the share of races of equal models that were decided. All races of a
row go on side by side, with the classes of a real race.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from launcher.evaluate.random_order import BLOCKS
from launcher.stats.betting import ALPHA, CANDIDATES, Beaten, EqualityTest

DIFFERENCE = 0.05
DISCORDANCES = (0.1, 0.2, 0.3, 0.4, 0.5)
VALUES = np.array([-1.0, 0.0, 1.0])
SCALED = (VALUES + 1) / 2
ABOVE = np.array([0.5 + 1 / CANDIDATES])
"""The least candidate that excludes a difference of 0, on a scale of 0 to 1."""


def asked(total: int, discordance: float, difference: float, races: int, draw: Any) -> tuple[Any, Any]:
    """Race two models again and again; return how many questions each race asked, and whether that decided it."""
    counts = _blocks(total, discordance, difference, races, draw)
    low, high = (Beaten(total, ALPHA / 2, ABOVE) for _ in range(2))
    test = EqualityTest(total, 1.0)
    above, below, done = (np.zeros(races, bool) for _ in range(3))
    found, seen = np.full(races, total), 0
    for block in counts:
        seen += int(block[0].sum())
        above |= low.add(SCALED, block)[:, 0]
        below |= high.add(1 - SCALED, block)[:, 0]
        test.take((VALUES, block), (VALUES, block))
        decided = (above | below) & (test.p < ALPHA)
        found[decided & ~done] = seen
        done |= decided
    return found, done


def _blocks(total: int, discordance: float, difference: float, races: int, draw: Any) -> Any:
    """Return how often each value comes in each block of each race, from a population with exactly these shares."""
    gains, losses = (round(total * (discordance + sign * difference) / 2) for sign in (1, -1))
    values = np.repeat(np.array([1, -1, 0], np.int8), [gains, losses, total - gains - losses])
    ends = np.cumsum([len(block) for block in np.array_split(values, min(BLOCKS, total))]) - 1
    made = []
    for _ in range(races):
        drawn = draw.permutation(values)
        made.append([np.diff(np.cumsum(drawn == value)[ends], prepend=0) for value in VALUES])
    return np.array(made, float).transpose(2, 0, 1)


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    races = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    draw = np.random.default_rng(0)
    print(f"{races} races over {total:,} questions, five points apart; then as many of equal models")
    print("discordance    mean   9 of 10   share of all   within half   equal models decided")
    for discordance in DISCORDANCES:
        counts, _ = asked(total, discordance, DIFFERENCE, races, draw)
        _, wrong = asked(total, discordance, 0.0, races, draw)
        mean, most, half = np.mean(counts), np.quantile(counts, 0.9), np.mean(counts <= total / 2)
        print(
            f"{discordance:11}  {mean:6,.0f}  {most:8,.0f}  {mean / total:12.0%}  {half:12.0%}  {np.mean(wrong):21.1%}"
        )


if __name__ == "__main__":
    main()
