"""What an evaluation may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from launcher.core.errors import UserError
from launcher.core.ranges import NonNegative, Positive, Range

TokenLimit = Annotated[int, Range(1, 10**15)]
"""How many tokens there may be."""


@dataclass
class Budget:
    """What an evaluation may cost, over all sessions of a run (null: no bound).

    ``tokens`` bounds those of prompts and answers, as the server counts them, ``usd`` the money at the given prices.
    Then no new sample is asked, those in flight end, and the exit code is 3; ``resume=`` with more continues. The cost
    can be higher than the bound by what is in flight. Answers of a cache cost nothing.
    """

    tokens: TokenLimit | None = None
    usd: Positive | None = None
    usd_per_million_prompt_tokens: NonNegative = 0.0
    usd_per_million_completion_tokens: NonNegative = 0.0

    def check(self) -> None:
        """Raise `UserError` for money without prices."""
        if self.usd is not None and not (self.usd_per_million_prompt_tokens or self.usd_per_million_completion_tokens):
            raise UserError(
                f"evaluate.budget.usd={self.usd:g} needs prices: give evaluate.budget.usd_per_million_prompt_tokens "
                "and evaluate.budget.usd_per_million_completion_tokens"
            )

    @property
    def is_bound(self) -> bool:
        """Whether there is a bound."""
        return self.tokens is not None or self.usd is not None

    def cost_usd(self, prompt: int, completion: int) -> float:
        """Return the price of so many tokens."""
        prices = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        return (prompt * prices[0] + completion * prices[1]) / 1e6
