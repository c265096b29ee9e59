"""Counts the tokens that answers cost at each endpoint, and says when the budget of an evaluation is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from launcher.core.responses import token_count
from launcher.core.types import Handler, Json, Request, Response, is_object
from launcher.settings.budget import Budget

COUNTS = ("prompt_tokens", "completion_tokens")
UNCOUNTED = "uncounted"
"""Answers without token counts, whose cost is not known."""
JUDGE = "judge"
"""The endpoint that has prices of its own; its counts begin with this name."""


class Meter:
    """Counts what each answer of the servers costs, also of requests that are sent again.

    ``before`` is what earlier sessions spent.
    """

    def __init__(self, budget: Budget, before: Mapping[str, int]) -> None:
        self._budget = budget
        self._total = Counter(before)
        self._uncounted = ""
        self._by_sample: dict[str, Counter[str]] = {}

    def around(self, handler: Handler, endpoint: str = "") -> Handler:
        """Return a handler whose answers are counted as those of an endpoint; empty is the run's own."""
        if not self._budget.is_given:
            return handler

        async def handle(request: Request) -> Response:
            response = await handler(request)
            if response.ok and not response.cached:
                self._count(request, response, endpoint)
            return response

        return handle

    def _count(self, request: Request, response: Response, endpoint: str) -> None:
        usage = response.body.get("usage") if is_object(response.body) else None
        found = {name: token_count(usage, name) for name in COUNTS}
        missing = any(count is None for count in found.values())
        if missing:
            self._uncounted = f"an answer of the {endpoint}" if endpoint else "an answer"
        counts = {name: count for name, count in found.items() if count} | ({UNCOUNTED: 1} if missing else {})
        prefixed = {_key(endpoint, name): count for name, count in counts.items()}
        self._total.update(prefixed)
        if request.sample is not None:
            self._by_sample.setdefault(request.sample, Counter()).update(prefixed)

    def taken(self, sample: str) -> dict[str, int] | None:
        """Return what a sample has cost since this was last asked; None where nothing is counted."""
        found = self._by_sample.pop(sample, None)
        return dict(found) if found else None

    @property
    def spent(self) -> dict[str, int]:
        """The counts of all sessions."""
        return dict(self._total)

    def facts(self) -> dict[str, Json]:
        """Return what all sessions spent, for ``results.json``; empty where nothing is counted."""
        if not self._budget.is_given:
            return {}
        sums = {name: sum(self._of(endpoint, name) for endpoint in ("", JUDGE)) for name in (*COUNTS, UNCOUNTED)}
        parts = {endpoint or "model": self._part(endpoint) for endpoint in ("", JUDGE) if self._has(endpoint)}
        bounds = {"tokens": self._budget.tokens, "usd": self._budget.usd}
        known = {name: count for name, count in sums.items() if name in COUNTS or count}
        whole = {**known, "tokens": self._tokens, "usd": round(self._usd, 6)}
        return {"budget": {**whole, "endpoints": parts, "bounds": bounds}}

    def _part(self, endpoint: str) -> dict[str, Json]:
        return {**{name: self._of(endpoint, name) for name in COUNTS}, "usd": round(self._cost(endpoint), 6)}

    def _has(self, endpoint: str) -> bool:
        return any(self._of(endpoint, name) for name in (*COUNTS, UNCOUNTED))

    def _of(self, endpoint: str, name: str) -> int:
        return self._total[_key(endpoint, name)]

    def describe(self) -> str:
        """Return what is spent, for instance ``1,234 of 5,000 tokens · 0.0123 of 5 USD``; empty where nothing is."""
        budget = self._budget
        if not budget.is_given:
            return ""
        of_tokens = f" of {budget.tokens:,}" if budget.tokens is not None else ""
        of_usd = f" of {budget.usd:g}" if budget.usd is not None else ""
        money = f" · {self._usd:.4f}{of_usd} USD" if self._usd or budget.usd is not None else ""
        return f"{self._tokens:,}{of_tokens} tokens{money}"

    @property
    def _tokens(self) -> int:
        return sum(self._of(endpoint, name) for endpoint in ("", JUDGE) for name in COUNTS)

    @property
    def _usd(self) -> float:
        return self._cost("") + self._cost(JUDGE)

    def _cost(self, endpoint: str) -> float:
        prices = self._budget.judge if endpoint else self._budget
        return prices.cost_usd(*(self._of(endpoint, name) for name in COUNTS))

    @property
    def exhausted(self) -> str | None:
        """Why no new sample may be asked; None if it may."""
        budget = self._budget
        if not budget.is_bound:
            return None
        if self._uncounted:
            return f"evaluate.budget: {self._uncounted} has no token counts (usage), so its cost is not known"
        if budget.tokens is not None and self._tokens >= budget.tokens:
            return f"evaluate.budget.tokens={budget.tokens} is spent: {self._tokens:,} tokens"
        if budget.usd is not None and self._usd >= budget.usd:
            return f"evaluate.budget.usd={budget.usd:g} is spent: {self._usd:.4f} USD for {self._tokens:,} tokens"
        return None


def _key(endpoint: str, name: str) -> str:
    return f"{endpoint}_{name}" if endpoint else name
