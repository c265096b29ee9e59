"""How many questions a race needs, over discordances: ``python benchmarks/race.py [QUESTIONS] [RACES]``.

The models differ by five points. The table has the questions that were asked until the race was decided: the mean, and
the most in nine of ten races. Its last column is the share of races of equal models that were decided.
"""

from __future__ import annotations

import sys

import numpy as np

from launcher.evaluate.random_order import BLOCKS
from launcher.stats.betting import ALPHA, ConfidenceSequence, EqualityTest

DIFFERENCE = 0.05
DISCORDANCES = (0.1, 0.2, 0.3, 0.4, 0.5)


def asked(total: int, discordance: float, difference: float, draw: np.random.Generator) -> tuple[int, bool]:
    """Race two models once; return how many questions were asked, and whether that decided it."""
    gains, losses = (round(total * (discordance + sign * difference) / 2) for sign in (1, -1))
    values = np.repeat([1.0, -1.0, 0.0], [gains, losses, total - gains - losses])
    sequence, test, count = ConfidenceSequence(total, -1.0, 1.0), EqualityTest(total, 1.0), 0
    for block in np.array_split(draw.permutation(values), min(BLOCKS, total)):
        found = [(value, value) for value in block.tolist()]
        sequence.add(found)
        test.add(found)
        count += len(block)
        if float(test.p) < ALPHA and not sequence.low <= 0 <= sequence.high:
            return count, True
    return total, False


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    races = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    draw = np.random.default_rng(0)
    print(f"{races} races over {total:,} questions, five points apart; then as many of equal models")
    print("discordance    mean   9 of 10   share of all   equal models decided")
    for discordance in DISCORDANCES:
        counts = [asked(total, discordance, DIFFERENCE, draw)[0] for _ in range(races)]
        wrong = sum(asked(total, discordance, 0.0, draw)[1] for _ in range(races))
        mean, most = np.mean(counts), np.quantile(counts, 0.9)
        print(f"{discordance:11}  {mean:6,.0f}  {most:8,.0f}  {mean / total:12.0%}  {wrong / races:20.1%}")


if __name__ == "__main__":
    main()
