"""The messages between the leader and the workers, its other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from launcher.core.logs import LogFile
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.step import StepPlan

HEARTBEAT_INTERVAL_S = 1.0
"""How often a worker reports that it is alive."""


class WorkerStatus(Enum):
    """What a worker reports to the leader; a string instead is the reason of its failure."""

    ready = "ready"
    alive = "alive"


@dataclass(frozen=True)
class WorkerSpec:
    """The rank of a worker, the number of its GPU on its host, the address of the rendezvous store, and the log."""

    worker_config: WorkerConfig
    rank: int
    device: int
    host: str
    port: int
    log: LogFile | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """Take part in a step."""

    plan: StepPlan


@dataclass(frozen=True, slots=True)
class PlainForward:
    """Take part in a forward pass without cache, computed in the next wider type if ``exact``."""

    tokens: Sequence[int]
    exact: bool
