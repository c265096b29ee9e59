"""The JSON of ``/health`` and of a line of ``health.jsonl``, for those that write it and those that read it.

A server that cannot answer writes an error instead, with one of the codes below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from launcher.core.types import Json

DEAD, RESTARTING = "engine_dead", "engine_restarting"
"""The error codes of ``/health`` for an engine that failed permanently, and for one that restarts."""


class ReplicaHealth(TypedDict):
    """One replica; ``state`` is ``live`` or why it is replaced, ``requests`` those that the balancer sent to it."""

    id: str
    pid: int
    node: str
    state: str
    requests: int
    running: int
    queued: int
    generated_tokens: int
    tokens_per_s: float


class LostProcess(TypedDict):
    """A process that was lost, at ``time`` in seconds since 1970. ``id`` is null for one that is no replica."""

    id: str | None
    pid: int | None
    reason: str
    time: float


class ScalingDecision(TypedDict):
    """A change to ``replicas`` because of the number of ``requests``, at ``time`` in seconds since 1970."""

    time: float
    requests: int
    replicas: int


class Health(TypedDict):
    """The answer of a server that works. A server with replicas has all fields, any other only the first two.

    ``engine`` is the state of the engine, or the sums over all replicas. ``wanted`` is the number of replicas that
    there should be; ``replacing`` says that there are fewer.
    """

    status: Literal["live", "replacing"]
    engine: Mapping[str, int | bool | str | None]
    replicas: NotRequired[list[ReplicaHealth]]
    wanted: NotRequired[int]
    scaled: NotRequired[list[ScalingDecision]]
    lost: NotRequired[list[LostProcess]]


class Probe(TypedDict):
    """One probe of an endpoint. ``live`` says that a server answered; ``detail`` is its answer, or the error.

    ``silent`` is true for a server that did not answer in time, ``ended`` for one whose process has ended.
    """

    time: str
    live: bool
    status: int | None
    latency_s: float
    detail: Json
    ended: NotRequired[Literal[True]]
    silent: NotRequired[Literal[True]]
