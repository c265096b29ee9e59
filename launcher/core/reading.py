"""A line of ``health.jsonl``: what was known of a run's server and processes at one time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from launcher.core.run_folder import RunFolder
from launcher.core.types import Json

MOST_EVENTS = 100
"""Of more than twice as many events, a summary has the first and the last ones."""

Part = TypeVar("Part", "ProcessReading", "GpuReading")


@dataclass(frozen=True)
class ProcessReading:
    """One process of the run. ``state`` is ``running``, ``sleeping``, ``blocked``, ``stopped`` or ``ended``.

    ``cpu_percent`` is its share of one CPU since the last reading; 0 in a first one.
    """

    name: str
    pid: int
    alive: bool
    memory_mib: int
    state: str = ""
    cpu_percent: int = 0


@dataclass(frozen=True)
class GpuReading:
    """One GPU of this machine, and how busy it was in the last moments."""

    index: int
    memory_mib: int
    utilization_percent: int
    memory_total_mib: int = 0


@dataclass(frozen=True)
class Reading:
    """One reading at ``time``, in seconds since 1970. What a server does not tell is null.

    ``state`` is a `launcher.core.types.Liveness`, ``reason`` what is behind any but ``live``. ``ready`` says that the
    server can answer. ``canary_s`` is how long the last canary took; null unless one was answered in this period.
    ``in_flight`` counts the requests that the server computes, ``queued`` those that wait in it. ``tokens_per_s`` and
    ``error_rate`` (failed requests among those that ended) are of the time since the last reading. ``health`` is the
    answer of a built-in server's ``/health``, or the error. ``events`` are what happened since the last reading: pauses
    of the evaluation, processes that ended, stopped or came back, a canary without an answer. ``events_total`` counts
    them since the session began.
    """

    time: float
    state: str
    ready: bool
    reason: str = ""
    latency_s: float | None = None
    canary_s: float | None = None
    in_flight: int | None = None
    queued: int | None = None
    tokens_per_s: float | None = None
    error_rate: float | None = None
    processes: tuple[ProcessReading, ...] = ()
    gpus: tuple[GpuReading, ...] = ()
    events: tuple[str, ...] = ()
    events_total: int = 0
    health: Json = None

    def line(self) -> str:
        """Return the reading as JSON, without an end of line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def of(cls, value: Mapping[str, Json]) -> Self:
        """Return the reading of a line's JSON; fields that it does not know are left out. Raises `ValueError`."""
        try:
            found = _known(cls, value)
            found["processes"] = tuple(_parts(ProcessReading, value.get("processes")))
            found["gpus"] = tuple(_parts(GpuReading, value.get("gpus")))
            found["events"] = tuple(map(str, value.get("events") or ()))
            return cls(**found)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a reading of health: {error}") from None


def readings(lines: Iterable[bytes]) -> Iterator[Reading]:
    """Yield the readings among ``lines``; one that is damaged, or still being written, is left out."""
    for line in lines:
        try:
            yield Reading.of(json.loads(line))
        except ValueError:
            continue


def summary(path: Path) -> dict[str, Json]:
    """Return how many readings a file has and their events, those of all sessions; empty without a file.

    Of many events the first and last ones are kept; ``left_out`` counts the others.
    """
    if not path.is_file():
        return {}
    read, total, first, last = 0, 0, list[dict[str, Json]](), deque[dict[str, Json]](maxlen=MOST_EVENTS)
    with path.open("rb") as file:
        for reading in readings(file):
            read += 1
            for event in reading.events:
                at = datetime.fromtimestamp(reading.time, UTC).isoformat(timespec="milliseconds")
                (first if len(first) < MOST_EVENTS else last).append({"time": at, "event": event})
                total += 1
    return {"readings": read, "events": [*first, *last], "left_out": total - len(first) - len(last)}


def summary_of_run(folder: Path) -> dict[str, Json]:
    """Return the `summary` of a run folder, with the events of its judge's server."""
    place = RunFolder(folder)
    own, judge = summary(place.health), summary(RunFolder(place.judge).health)
    if not own or not judge:
        return own
    known = {each["event"] for each in own["events"]}  # both watch the launcher's processes
    new = [each | {"event": f"the judge: {each['event']}"} for each in judge["events"] if each["event"] not in known]
    return own | {
        "events": sorted([*own["events"], *new], key=lambda each: each["time"]),
        "left_out": own["left_out"] + judge["left_out"],
    }


def _parts(kind: type[Part], values: Iterable[Mapping[str, Json]] | None) -> Iterator[Part]:
    for value in values or ():
        yield kind(**_known(kind, value))


def _known(kind: type[Any], value: Mapping[str, Json]) -> dict[str, Json]:
    return {each.name: value[each.name] for each in fields(kind) if each.name in value}
