"""The messages between the processes of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.core.logs import LogFile
from launcher.distributed.allocation import Member


@dataclass(frozen=True)
class Join:
    """A rank joins the group."""

    member: Member


@dataclass(frozen=True)
class Start:
    """Run a module with a connection, whose first message is the `ChildConnection` of this ticket, and with a log."""

    ticket: str
    module: str
    environment: Mapping[str, str]
    log: LogFile | None = None


@dataclass(frozen=True)
class ChildConnection:
    """This connection is that of the child with this ticket."""

    ticket: str


@dataclass(frozen=True)
class Stop:
    """End the child; kill it after ``grace_s`` seconds. The answer is `Stopped`."""

    grace_s: float


@dataclass(frozen=True)
class Stopped:
    """No child is left."""


@dataclass(frozen=True)
class Terminated:
    """A rank got SIGTERM, so that the whole group must end."""


@dataclass(frozen=True)
class Shutdown:
    """The leader is done; every rank ends."""
