"""The backend interface: a context manager that yields an `Endpoint` and guarantees tear-down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import ClassVar

from launcher.core.errors import UserError
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import name_of
from launcher.settings.model import Optimizations, Parallelism


@dataclass
class Backend(ABC):
    """The configuration of a backend; a component of the group ``backend``."""

    spread: ClassVar[Spread] = Spread.none
    """Which part of it may span several nodes."""
    runs_engine: ClassVar[bool] = True
    """Whether it runs one of the launcher's engines; otherwise the server has its own."""
    identity_fields: ClassVar[frozenset[str]] = frozenset()
    """The settings that identify the server: a run resumes only if they are equal."""

    @property
    def checkpoints(self) -> bool:
        """Whether it serves the checkpoint that `Model` names."""
        return self.runs_engine

    @property
    def maximum_replicas(self) -> int:
        """How many replicas of the model can run at the same time, for which the resources must suffice."""
        return 1

    @abstractmethod
    def serve(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[Endpoint]:
        """Start the server and yield its endpoint once it has produced a real token.

        On exit, also by an exception, Ctrl-C or SIGTERM, no process, port or temporary folder is left. Raises
        `UserError` for settings that cannot work, and `ServerError` when the server does not start.
        """

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        """Describe, without heavy imports, what `serve` would start. Raises `UserError` as `serve` does."""
        return {}


def check_single_process(backend: Backend, allocation: Allocation) -> None:
    """Raise `UserError` if several processes were started together for a backend that runs in one process."""
    if allocation.world_size > 1 and backend.spread is Spread.none:
        raise UserError(
            f"backend={name_of(backend)}: this backend runs in one process, got a world size of "
            f"{allocation.world_size}; start one process"
        )


def check_world_size(parallelism: Parallelism, allocation: Allocation) -> None:
    """Raise `UserError` if several processes were started together, but not one for each rank of the model."""
    if allocation.world_size not in (1, parallelism.world_size):
        raise UserError(
            f"parallelism: the model has a world size of {parallelism.world_size}, got {allocation.world_size} "
            "processes; start one process, or tensor * pipeline"
        )


def check_optimizations(optimizations: Optimizations, taken: frozenset[str] = frozenset()) -> None:
    """Raise `UserError` for an optimization that a server of another program does not get, beside those ``taken``."""
    usual = asdict(Optimizations())
    for name, value in asdict(optimizations).items():
        if value != usual[name] and name not in taken:
            shown = getattr(value, "value", value)
            raise UserError(
                f"optimizations.{name}={shown}: has no effect with engine=none; start the server with this setting"
            )
