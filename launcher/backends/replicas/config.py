"""What the process that runs the replicas is told, as JSON among its arguments."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from launcher.backends.balancer import Routing
from launcher.backends.endpoint import ANY_PORT
from launcher.core.cleanup import ROOT

LOOPBACK = "127.0.0.1"
"""Where replicas listen; only HAProxy does on the address that clients know."""
CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from launcher.backends.replicas.driver import main; main()"
"""PYTHONPATH would reach the servers, which have an environment of their own."""


@dataclass(frozen=True)
class ReplicasConfig:
    """Servers to run with ``command``, one for each mapping of ``variables``, behind ``host`` and ``port``.

    ``ready_path`` answers when one is ready. While ``answers_while_busy`` is false, it may answer nothing while it
    computes. A server that is silent for ``probe_timeout_s``, or has requests and sends nothing for
    ``stall_timeout_s``, is replaced. ``key_env`` names the variable of the key that servers ask for.
    """

    command: tuple[str, ...]
    variables: tuple[Mapping[str, str], ...]
    host: str
    port: int
    ready_path: str
    answers_while_busy: bool
    routing: Routing
    start_timeout_s: float
    stop_timeout_s: float
    probe_timeout_s: float
    stall_timeout_s: float | None
    key_env: str | None
    folder: str
    log: str

    def words(self, port: int) -> list[str]:
        """Return the command of a replica that listens on ``port``."""
        return [word.replace(ANY_PORT, str(port)) for word in self.command]

    def driver(self) -> list[str]:
        """Return the command of the process that runs the replicas."""
        return [sys.executable, "-P", "-c", CODE, os.fspath(ROOT), json.dumps(asdict(self), default=_value)]


def loaded(text: str) -> ReplicasConfig:
    """Return what `ReplicasConfig.driver` has written."""
    found = json.loads(text)
    parts = {"command": tuple(found["command"]), "variables": tuple(found["variables"])}
    return ReplicasConfig(**found | parts | {"routing": Routing(found["routing"])})


def _value(value: object) -> object:
    assert isinstance(value, Enum)
    return value.value
