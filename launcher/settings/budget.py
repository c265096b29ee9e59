"""What an evaluation may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from launcher.core.errors import UserError
from launcher.core.ranges import NonNegative, Positive, Range

TokenLimit = Annotated[int, Range(1, 10**15)]
"""How many tokens there may be."""
PRICES = ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens")


@dataclass
class Prices:
    """What an endpoint takes for its tokens; null is not known.

    ``usd_per_million_prompt_tokens`` and ``usd_per_million_completion_tokens`` are prices in US dollars.
    """

    usd_per_million_prompt_tokens: NonNegative | None = None
    usd_per_million_completion_tokens: NonNegative | None = None

    @property
    def missing(self) -> list[str]:
        """The prices that are not given."""
        return [name for name in PRICES if getattr(self, name) is None]

    def cost_usd(self, prompt: int, completion: int) -> float:
        """Return the price of so many tokens; those without a price cost nothing."""
        of_prompt, of_completion = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        return (prompt * (of_prompt or 0.0) + completion * (of_completion or 0.0)) / 1e6


@dataclass
class Budget(Prices):
    """What an evaluation may cost, over all sessions of a run (null: no bound).

    ``tokens`` bounds those of prompts and answers, as the servers count them, ``usd`` the money. The prices are those
    of the run's own endpoint, and under ``judge`` those of the judge. An endpoint at a URL needs prices where ``usd``
    is bound; what the launcher serves costs nothing unless they are given.

    At the bound no new sample is asked, those in flight end, and the exit code is 3; ``resume=`` with more continues.
    The cost can be higher than the bound by what is in flight. Answers of a cache cost nothing. With prices and without
    a bound, the cost is only shown.
    """

    tokens: TokenLimit | None = None
    usd: Positive | None = None
    judge: Prices = field(default_factory=Prices)

    @property
    def is_bound(self) -> bool:
        """Whether there is a bound."""
        return self.tokens is not None or self.usd is not None

    @property
    def is_given(self) -> bool:
        """Whether there is a bound or a price."""
        return self.is_bound or any(len(prices.missing) < len(PRICES) for prices in (self, self.judge))

    def check(self, *, own_is_paid: bool, judge_is_paid: bool) -> None:
        """Raise `UserError` for a bound of money without the prices of an endpoint that may cost some."""
        if self.usd is None:
            return
        paid = {"evaluate.budget": self} if own_is_paid else {}
        priced: dict[str, Prices] = {**paid, **({"evaluate.budget.judge": self.judge} if judge_is_paid else {})}
        wanted = [f"{key}.{name}=<dollars>" for key, prices in priced.items() for name in prices.missing]
        if not priced and not any(len(prices.missing) < len(PRICES) for prices in (self, self.judge)):
            wanted = [f"evaluate.budget.{name}=<dollars>" for name in PRICES]
        if wanted:
            raise UserError(f"evaluate.budget.usd={self.usd:g} needs prices: give {' '.join(wanted)}")
