"""How often a process that fails is started again."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class RestartBudget:
    """Counts failures in a row; ``limit`` of them exhaust the budget.

    A failure more than ``stable_s`` seconds after the process was ready starts a new row.
    """

    limit: int
    stable_s: float = math.inf
    failures: int = 0

    @property
    def exhausted(self) -> bool:
        return self.failures >= self.limit

    def record_failure(self, ready_s: float = 0.0) -> None:
        """Count the failure of a process that was ready for ``ready_s`` seconds."""
        self.failures = 1 if ready_s > self.stable_s else self.failures + 1
