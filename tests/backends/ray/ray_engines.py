"""Engines that fail, in a module that a replica can import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.core.errors import CheckpointError
from launcher.distributed.allocation import Allocation
from launcher.engines.base import AsyncEngine, Deployment
from launcher.engines.echo import Echo


@dataclass
class Damaged(Echo):
    """Finds, when it loads, that the checkpoint is damaged."""

    @contextmanager
    def load(  # type: ignore[override]
        self, deployment: Deployment, allocation: Allocation
    ) -> Iterator[AsyncEngine]:
        raise CheckpointError("shard 7 is damaged")
        yield


@dataclass
class Killed(Echo):
    """Is killed while it loads, as for lack of memory."""

    @contextmanager
    def load(  # type: ignore[override]
        self, deployment: Deployment, allocation: Allocation
    ) -> Iterator[AsyncEngine]:
        os.kill(os.getpid(), 9)
        yield


@dataclass
class Fatal(Echo):
    """Exits the process that unpickles it."""

    def __setstate__(self, state: dict[str, object]) -> None:
        os._exit(1)
