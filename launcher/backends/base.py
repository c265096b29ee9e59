"""The backend interface: a context manager that yields an `Endpoint` and guarantees tear-down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from launcher.core.errors import UserError
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import name_of
from launcher.settings.model import Parallelism


@dataclass
class Backend(ABC):
    """The configuration of a backend; a component of the group ``backend``."""

    spread: ClassVar[Spread] = Spread.none
    """What of it may be on several nodes."""
    runs_engine: ClassVar[bool] = True
    """Whether it serves one of our engines; otherwise the server has software of its own."""
    identity_fields: ClassVar[frozenset[str]] = frozenset()
    """Its settings that decide who answers: a run is resumed only where they are equal."""

    @property
    def checkpoints(self) -> bool:
        """Whether it serves the checkpoint that `Model` names."""
        return self.runs_engine

    @abstractmethod
    def serve(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[Endpoint]:
        """Bring the server up and yield its endpoint once it produced a real token.

        Whatever happens inside the context (an exception, Ctrl-C, SIGTERM), leaving it leaves no process, no port and
        no temporary folder. Raises `UserError` for what cannot work and `ServerError` when the server does not start.
        """

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        """Describe, without heavy imports, what `serve` would start; raise `UserError` for what cannot work."""
        return {}


def check_single_process(backend: Backend, allocation: Allocation) -> None:
    """Raise `UserError` if several processes were started together for a backend that one process runs."""
    if allocation.world_size > 1 and backend.spread is Spread.none:
        raise UserError(
            f"backend={name_of(backend)}: {allocation.world_size} processes were started together, and one runs this "
            "backend; accepted is one"
        )


def check_world_size(parallelism: Parallelism, allocation: Allocation) -> None:
    """Raise `UserError` if several processes were started together, and not as many as the model has."""
    if allocation.world_size not in (1, parallelism.world_size):
        raise UserError(
            f"parallelism: {allocation.world_size} processes were started together, and the model has "
            f"{parallelism.world_size}; accepted is one, or as many as tensor * pipeline"
        )
