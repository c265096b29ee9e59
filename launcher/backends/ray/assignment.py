"""What the driver and its replicas are told to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from launcher.allocation import Allocation
from launcher.backends.base import Deployment
from launcher.core import Json


class Routing(Enum):
    """Which replica answers: the one with the least requests, or one that saw the same beginning of a prompt."""

    least_outstanding = "least_outstanding"
    prefix = "prefix"


@dataclass(frozen=True)
class Share:
    """What one replica has of its machine."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Patience:
    """Seconds that a start, a stop and a sign of life may take, and a request without progress (None: for ever)."""

    start_s: float
    stop_s: float
    probe_s: float
    stall_s: float | None


@dataclass(frozen=True)
class Assignment:
    """All that a driver needs to bring up a fleet. ``listener`` is the number of the bound socket it inherits.

    ``lost`` are the Rays that were there before it, as `Fleet.lost` describes replicas.
    """

    deployment: Deployment
    allocation: Allocation
    replicas: int
    share: Share
    routing: Routing
    patience: Patience
    api_key: str | None
    home: Path
    working_folder: Path
    listener: int
    lost: tuple[Mapping[str, Json], ...] = ()
