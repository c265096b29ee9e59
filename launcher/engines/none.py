"""No engine: the server has one of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager

from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.engines.base import AsyncEngine, Deployment, Engine
from launcher.settings.component import component
from launcher.settings.model import Model


@component("engine/none")
class Nothing(Engine):
    """The engine of servers of other programs: the launcher loads nothing."""

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        return {"processes": 0}

    def load(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[AsyncEngine]:
        raise UserError("engine=none: has no model to serve; needs backend=external or backend=command")

    def fingerprint(self, model: Model) -> str | None:
        """Return None also for a checkpoint that only the server can read: a model on a hub, an unknown layout."""
        try:
            return super().fingerprint(model) if resolve(model.path).exists() else None
        except (CheckpointError, FileNotFoundError):
            return None
