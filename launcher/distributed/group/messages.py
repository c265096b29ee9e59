"""The messages between the processes of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.distributed.allocation import Member


@dataclass(frozen=True)
class Hello:
    """A member is there."""

    member: Member


@dataclass(frozen=True)
class Start:
    """Run a module, with a connection that begins with the `Answer` of this ticket."""

    ticket: str
    module: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """This is the connection for a ticket."""

    ticket: str


@dataclass(frozen=True)
class Stop:
    """End what was started; kill it after ``grace_s`` seconds. The answer is `Stopped`."""

    grace_s: float


@dataclass(frozen=True)
class Stopped:
    """Nothing that was started is left."""


@dataclass(frozen=True)
class Ending:
    """A member was told to end, and asks that all do."""


@dataclass(frozen=True)
class Leave:
    """The leader is done."""
