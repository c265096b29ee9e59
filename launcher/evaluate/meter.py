"""Counts the tokens that the server's answers cost, and says when the budget of an evaluation is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from launcher.core.responses import token_count
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.budget import Budget

COUNTS = ("prompt_tokens", "completion_tokens")
UNCOUNTED = "uncounted"
"""Answers without token counts, whose cost is not known."""


class Meter:
    """Counts what each answer of the server costs, also of requests that are sent again.

    ``before`` is what earlier sessions spent.
    """

    def __init__(self, budget: Budget, before: Mapping[str, int]) -> None:
        self._budget = budget
        self._total = Counter(before)
        self._uncounted = False
        self._by_sample: dict[str, Counter[str]] = {}

    def around(self, handler: Handler) -> Handler:
        """Return a handler whose answers are counted."""

        async def handle(request: Request) -> Response:
            response = await handler(request)
            if response.ok and not response.cached:
                self._count(request, response)
            return response

        return handle if self._budget.is_bound else handler

    def _count(self, request: Request, response: Response) -> None:
        usage = response.body.get("usage") if isinstance(response.body, Mapping) else None
        found = {name: token_count(usage, name) for name in COUNTS}
        missing = any(count is None for count in found.values())
        self._uncounted = self._uncounted or missing
        counts = {name: count for name, count in found.items() if count} | ({UNCOUNTED: 1} if missing else {})
        self._total.update(counts)
        if request.sample is not None:
            self._by_sample.setdefault(request.sample, Counter()).update(counts)

    def taken(self, sample: str) -> dict[str, int] | None:
        """Return what a sample has cost since this was last asked; None without a budget."""
        found = self._by_sample.pop(sample, Counter())
        return dict(found) if self._budget.is_bound and found else None

    @property
    def spent(self) -> dict[str, int]:
        """The counts of all sessions."""
        return dict(self._total)

    def facts(self) -> dict[str, Json]:
        """Return what all sessions spent, for ``results.json``; empty without a budget."""
        if not self._budget.is_bound:
            return {}
        return {"budget": {**self.spent, "tokens": self._tokens, "usd": round(self._usd, 6)}}

    @property
    def _tokens(self) -> int:
        return sum(self._total[name] for name in COUNTS)

    @property
    def _usd(self) -> float:
        return self._budget.cost_usd(*(self._total[name] for name in COUNTS))

    @property
    def exhausted(self) -> str | None:
        """Why no new sample may be asked; None if it may."""
        budget = self._budget
        if not budget.is_bound:
            return None
        if self._uncounted:
            return "evaluate.budget: an answer has no token counts (usage), so its cost is not known"
        if budget.tokens is not None and self._tokens >= budget.tokens:
            return f"evaluate.budget.tokens={budget.tokens} is spent: {self._tokens:,} tokens"
        if budget.usd is not None and self._usd >= budget.usd:
            return f"evaluate.budget.usd={budget.usd:g} is spent: {self._usd:.4f} USD for {self._tokens:,} tokens"
        return None
