"""The configuration of the driver and its replicas."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from launcher.asgi.config import FrontendConfig
from launcher.backends.balancer import Routing
from launcher.core.health import LostProcess
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.base import Deployment

ADMIT = b"a"
"""What a driver reads from standard input, after its configuration, when every client is admitted."""


@dataclass(frozen=True)
class ResourceShare:
    """The CPUs and GPUs of one replica."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ResourceRequest:
    """What all replicas need at most; ``cpus`` and ``gpus`` are per rank (None: an even share of the CPUs)."""

    replicas: int
    world: int
    cpus: float | None
    gpus: float


@dataclass(frozen=True)
class Scale:
    """Bounds of autoscaling: replicas, open requests per replica, and seconds before the number goes up or down."""

    minimum: int
    maximum: int
    target: float = 1.0
    up_s: float = 0.0
    down_s: float = 0.0

    @property
    def fixed(self) -> bool:
        return self.minimum == self.maximum


@dataclass(frozen=True)
class Timeouts:
    """Seconds for a start, a stop, the silence of a process, and requests without progress (None: no limit)."""

    start_s: float
    stop_s: float
    probe_s: float
    stall_s: float | None


@dataclass(frozen=True)
class DriverConfig:
    """All that a driver needs to start and watch the replicas.

    ``listener`` is the file descriptor of the bound socket that the driver inherits. ``lost`` are the Rays before it,
    as `ReplicaRegistry.lost` describes replicas.

    With ``address`` the driver uses an existing Ray, where ``application`` names its replicas; the driver itself finds
    ``host`` and each replica's ``share``. Otherwise it starts a local Ray that listens at ``host``.
    ``replicas_per_node`` says how many replicas each node of that Ray holds, this host first.

    Replicas answer only requests with ``secret``. Until it is ``admitted``, HAProxy answers only requests with
    ``validator_token``, if there is one.
    """

    deployment: Deployment
    allocation: Allocation
    scale: Scale
    request: ResourceRequest
    share: ResourceShare
    routing: Routing
    timeouts: Timeouts
    frontend: FrontendConfig
    session_dir: Path
    working_folder: Path
    listener: int
    lost: tuple[LostProcess, ...] = ()
    address: str | None = None
    application: str = "launcher"
    host: str = LOOPBACK
    replicas_per_node: tuple[int, ...] = ()
    validator_token: str | None = field(default=None, repr=False)
    admitted: bool = False
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
