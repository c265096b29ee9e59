"""What the driver and its replicas are told to do."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from launcher.asgi.config import FrontendConfig
from launcher.core.health import Loss
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.base import Deployment

ADMIT = b"a"
"""What a driver reads from standard input, after its assignment, when everybody may ask the fleet."""


class Routing(Enum):
    """Which replica answers: the one with the least requests, or one that saw the same beginning of a prompt."""

    least_outstanding = "least_outstanding"
    prefix = "prefix"


@dataclass(frozen=True)
class ResourceShare:
    """What one replica has of its machine."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ResourceRequest:
    """What a fleet asks for at most: ``cpus`` and ``gpus`` are for each rank (None: an even share of the CPUs)."""

    replicas: int
    world: int
    cpus: float | None
    gpus: float


@dataclass(frozen=True)
class Scale:
    """Bounds for the number of replicas, the requests that each should have under way, and how long a change lasts."""

    least: int
    most: int
    target: float = 1.0
    up_s: float = 0.0
    down_s: float = 0.0

    @property
    def fixed(self) -> bool:
        return self.least == self.most


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a start, a stop and a sign of life may take, and a request without progress (None: for ever)."""

    start_s: float
    stop_s: float
    probe_s: float
    stall_s: float | None


@dataclass(frozen=True)
class DriverConfig:
    """All that a driver needs to bring up a fleet. ``listener`` is the number of the bound socket it inherits.

    ``lost`` are the Rays that were there before it, as `Fleet.lost` describes replicas.
    ``rooms`` says how many replicas each node of a Ray of our own holds, this host first, where it listens at ``host``.
    ``address`` is that of a Ray which runs already, None for one of our own; there ``application`` is the fleet's name.
    The replicas are to be asked with ``secret``. Until it is ``admitted``, the fleet answers only requests with
    ``validator_token``, if there is one. On a Ray that runs already the driver finds out ``host``, and the
    ``share`` of each replica.
    """

    deployment: Deployment
    allocation: Allocation
    scale: Scale
    demand: ResourceRequest
    share: ResourceShare
    routing: Routing
    patience: Timeouts
    frontend: FrontendConfig
    home: Path
    working_folder: Path
    listener: int
    lost: tuple[Loss, ...] = ()
    address: str | None = None
    application: str = "launcher"
    host: str = LOOPBACK
    rooms: tuple[int, ...] = ()
    validator_token: str | None = field(default=None, repr=False)
    admitted: bool = False
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
