"""No engine: the server has one of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict

from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.engines.base import AsyncEngine, Deployment, Engine
from launcher.settings.component import component
from launcher.settings.model import Model, Optimizations


@component("engine/none")
class Nothing(Engine):
    """The engine of ``backend=external`` and ``backend=command``: nothing is loaded by us."""

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        usual = asdict(Optimizations())
        for name, value in asdict(deployment.optimizations).items():
            if value != usual[name]:
                said = getattr(value, "value", value)
                raise UserError(f"optimizations.{name}={said}: engine=none loads nothing; say it to the server itself")
        return {"processes": 0}

    def load(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[AsyncEngine]:
        raise UserError("engine=none: there is nothing to serve; accepted with backend=external and backend=command")

    def fingerprint(self, model: Model) -> str | None:
        """Return None also for a checkpoint that only the server knows: a model on a hub, an unknown layout."""
        try:
            return super().fingerprint(model) if resolve(model.path).exists() else None
        except (CheckpointError, FileNotFoundError):
            return None
