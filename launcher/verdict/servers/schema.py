"""The shape of ``servers.json``, for those who read it in Python."""

from __future__ import annotations

from typing import TypedDict

from launcher.core.types import Json
from launcher.report.schema import LoadEntry

VERSION = 1


class FailedCheck(TypedDict):
    """A check that failed, and what was found."""

    id: str
    name: str
    detail: str


class ServerEntry(TypedDict):
    """A server. ``label`` is the letter by which the rest names it; ``valid`` is None where nothing was checked.

    ``counts`` has the number of checks by outcome. ``facts`` are what it says of itself. ``load`` is None where there
    was no load test, and ``load_left_out`` says why.
    """

    label: str
    folder: str
    url: str
    model: str
    valid: bool | None
    counts: dict[str, int]
    failed: list[FailedCheck]
    facts: dict[str, Json]
    load: LoadEntry | None
    load_left_out: str


class DifferenceEntry(TypedDict):
    """A check that ended otherwise at one of the servers: outcome and detail by label."""

    id: str
    name: str
    outcomes: dict[str, str]
    details: dict[str, str]


class RatioEntry(TypedDict):
    """The figure of server ``b`` over that of server ``a``: ``low`` and ``high`` are its 95 % interval, else None.

    ``in_flight`` are those of a and of b: both the same, or where each has its most tokens per second.
    """

    a: str
    b: str
    figure: str
    in_flight: tuple[int, int]
    ratio: float
    low: float | None
    high: float | None


class ServersFile(TypedDict):
    """``servers.json``. ``verdict`` has what to read first, ``warnings`` what speaks against comparing."""

    schema_version: int
    servers: list[ServerEntry]
    verdict: list[str]
    warnings: list[str]
    ratios: list[RatioEntry]
    differences: list[DifferenceEntry]
