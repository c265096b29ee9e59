"""What the leader tells the other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.step import StepPlan

BEAT_S = 1.0
"""How often a follower says that it is alive."""


class WorkerStatus(Enum):
    """What a follower says to the leader; a text instead is why it failed."""

    ready = "ready"
    alive = "alive"


@dataclass(frozen=True)
class WorkerSpec:
    """Which part a follower has, the number of its GPU there, and where the ranks meet."""

    placement: WorkerConfig
    rank: int
    device: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Take part in a step."""

    plan: StepPlan


@dataclass(frozen=True, slots=True)
class PlainForward:
    """Take part in a forward pass without cache, computed in the next wider type if ``exact``."""

    tokens: Sequence[int]
    exact: bool
