"""The order of the checks: first those that must be alone, one by one, then the rest, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from launcher.core import stage
from launcher.core.console import one_line
from launcher.core.types import Check, Outcome
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Extent, Family

AT_ONCE = 8
"""So many checks are made at a time: most of their time is waiting for answers."""
ALONE = frozenset(
    {"rounding", "greedy_repeats", "chat_repeats", "own_parameters", "mixed_requests", "chat_mixed_requests"}
)
"""Checks that decide themselves which requests run at the same time, or that others build on."""
SHOWN = 200


@dataclass
class Checking:
    """Makes checks of one endpoint; ``found`` has those that were made, by their ids."""

    context: CheckContext
    extent: Extent
    found: dict[str, Check] = field(default_factory=dict)
    total: int = 0

    async def run(self, checks: Sequence[CheckDefinition]) -> list[Check]:
        """Return the checks in their order. If the server cannot be reached, the rest is not asked.

        A check that fails beside others is made again alone, and that counts: models round differently under load.
        """
        self.total = len(checks)
        for check in filter(_is_first, checks):
            await self._make(check)
            if check.need is Capability.serving and self.found[check.id].ok is False:
                return self._ordered(checks)
        rest = [check for check in checks if not _is_first(check)]
        await self._several(rest)
        if sum(self.found[check.id].requests > 0 for check in rest) > 1:
            for check in rest:
                await self._again(check)
        return self._ordered(checks)

    async def _make(self, check: CheckDefinition) -> None:
        stage.report(len(self.found), self.total, "checks", check.id)
        self.found[check.id] = await check.run(self.context, self.context.needed, self.found, self.extent)
        stage.report(len(self.found), self.total, "checks", check.id)

    async def _several(self, checks: Sequence[CheckDefinition]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def make(check: CheckDefinition) -> None:
            async with slots:
                await self._make(check)

        async with asyncio.TaskGroup() as group:
            for check in checks:
                group.create_task(make(check))

    async def _again(self, check: CheckDefinition) -> None:
        first = self.found[check.id]
        if first.outcome not in (Outcome.failed, Outcome.warning):
            return
        await self._make(check)
        alone = self.found[check.id]
        if alone.outcome is Outcome.passed:
            detail = f"{alone.detail}; among other checks it failed: {one_line(first.detail, SHOWN)}"
            self.found[check.id] = replace(alone, detail=detail)

    def _ordered(self, checks: Sequence[CheckDefinition]) -> list[Check]:
        return [self.found[check.id] for check in checks if check.id in self.found]


def _is_first(check: CheckDefinition) -> bool:
    return check.base or check.family is Family.serving or check.id in ALONE
