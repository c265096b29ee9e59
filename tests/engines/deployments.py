"""Load and plan one engine as a backend does, without a server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from launcher.distributed.allocation import Allocation
from launcher.engines.base import AsyncEngine, Deployment, Engine
from launcher.settings.model import Model, Optimizations, Parallelism


def deployed(
    engine: Engine, model: Model, parallelism: Parallelism | None = None, optimizations: Optimizations | None = None
) -> Deployment:
    """Return the deployment of ``engine``; no server writes into its folder."""
    return Deployment(model, engine, parallelism or Parallelism(), optimizations or Optimizations(), Path("no-server"))


def load(
    engine: Engine,
    model: Model,
    allocation: Allocation,
    parallelism: Parallelism | None = None,
    optimizations: Optimizations | None = None,
) -> AbstractContextManager[AsyncEngine]:
    return engine.load(deployed(engine, model, parallelism, optimizations), allocation)


def plan(
    engine: Engine,
    model: Model,
    allocation: Allocation,
    parallelism: Parallelism | None = None,
    optimizations: Optimizations | None = None,
) -> dict[str, Any]:
    return engine.plan(deployed(engine, model, parallelism, optimizations), allocation)
