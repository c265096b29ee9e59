"""Counters of the proxy in memory that its workers share, so that each of them answers for all."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""The upper bounds of the histogram's buckets."""
STATUSES = range(100, 1000)
ERRORS = ("connection", "timeout", "answer", "adapter")
"""Why a request got no usable answer: the endpoint, or an adapter that refused."""
NAMES = (
    "heartbeat",
    "in_flight",
    "connections",
    "received_bytes",
    "sent_bytes",
    "clients_left",
    "microseconds",
    "completions",
    "completions_lost",
    "stopped",
)
HEARTBEAT, IN_FLIGHT, CONNECTIONS, RECEIVED, SENT, LEFT, MICROSECONDS, COMPLETIONS, LOST, STOPPED = range(len(NAMES))
_ERROR = len(NAMES)
_BUCKET = _ERROR + len(ERRORS)
_STATUS = _BUCKET + len(SECONDS) + 1
SIZE = _STATUS + len(STATUSES)
"""How many numbers a worker has."""


def create(workers: int) -> int:
    """Return the descriptor of memory for the counters of so many workers, all zero."""
    descriptor = os.memfd_create("launcher-proxy")
    os.ftruncate(descriptor, workers * SIZE * 8)
    return descriptor


class Counters:
    """The counters of all workers; one of them, ``worker``, is this process's own."""

    def __init__(self, descriptor: int, workers: int, worker: int = 0) -> None:
        self._map = mmap.mmap(descriptor, workers * SIZE * 8)
        self._all = memoryview(self._map).cast("q")
        self._slots = [self._all[i * SIZE : (i + 1) * SIZE] for i in range(workers)]
        self.worker = worker
        self.own = self._slots[worker]
        self._stopped = self._all[STOPPED::SIZE]

    def close(self) -> None:
        for view in (self._stopped, *self._slots, self._all):
            view.release()
        self._map.close()

    def finished(self, status: int, seconds: float, sent: int) -> None:
        """Count an answer."""
        own = self.own
        own[MICROSECONDS] += int(seconds * 1e6)
        own[_BUCKET + bisect_left(SECONDS, seconds)] += 1
        own[_STATUS - 100 + status] += 1
        own[SENT] += sent

    def failed(self, kind: str) -> None:
        """Count a failure, one of `ERRORS`."""
        self.own[_ERROR + ERRORS.index(kind)] += 1

    def beat(self, worker: int) -> int:
        """Return when a worker was last alive, in seconds of the machine's clock; 0 if it never was."""
        return self._slots[worker][HEARTBEAT]

    def restarted(self, worker: int) -> None:
        """Forget what a worker that has died had open."""
        for name in (HEARTBEAT, IN_FLIGHT, CONNECTIONS):
            self._slots[worker][name] = 0

    def total(self, place: int) -> int:
        return sum(slot[place] for slot in self._slots)

    def stopped_by(self) -> int | None:
        """Return the number of a worker in which an adapter has ended the evaluation; None if there is none."""
        return next((number for number, stopped in enumerate(self._stopped) if stopped), None)

    @property
    def stopped(self) -> bool:
        """Whether an adapter has ended the evaluation in some worker."""
        return any(self._stopped)

    def text(self, run: str) -> bytes:
        """Return all counters in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines(run)).encode()

    def _lines(self, run: str) -> Iterator[str]:
        yield from _family("launcher_proxy_info", "gauge", "The run of the proxy", [(f'{{run="{run}"}}', 1)])
        yield from _family("launcher_proxy_workers", "gauge", "Processes of the proxy", [("", len(self._slots))])
        found = [(f'{{status="{s}"}}', self.total(_STATUS - 100 + s)) for s in STATUSES]
        yield from _family("launcher_proxy_requests_total", "counter", "Answers sent", [row for row in found if row[1]])
        yield from _family("launcher_proxy_in_flight", "gauge", "Requests that wait", [("", self.total(IN_FLIGHT))])
        stopped = [("", int(self.stopped))]
        yield from _family("launcher_proxy_stopped", "gauge", "Whether an adapter has ended the evaluation", stopped)
        connections = [("", self.total(CONNECTIONS))]
        yield from _family("launcher_proxy_connections", "gauge", "Connections of clients", connections)
        for name, place, about in (
            ("received_bytes", RECEIVED, "Bytes of bodies from clients"),
            ("sent_bytes", SENT, "Bytes of bodies to clients"),
            ("clients_left", LEFT, "Clients that left before their answer"),
            ("completions", COMPLETIONS, "Completions that were answered"),
            ("completions_lost", LOST, "Completions that got an error, or whose client left"),
        ):
            yield from _family(f"launcher_proxy_{name}_total", "counter", about, [("", self.total(place))])
        failures = [(f'{{reason="{name}"}}', self.total(_ERROR + i)) for i, name in enumerate(ERRORS)]
        yield from _family("launcher_proxy_failures_total", "counter", "Requests without a usable answer", failures)
        yield from self._histogram()

    def _histogram(self) -> Iterator[str]:
        name, count = "launcher_proxy_request_seconds", 0
        rows: list[tuple[str, float]] = []
        for i, bound in enumerate([*SECONDS, "+Inf"]):
            count += self.total(_BUCKET + i)
            rows.append((f'_bucket{{le="{bound}"}}', count))
        rows += [("_sum", self.total(MICROSECONDS) / 1e6), ("_count", count)]
        yield from _family(name, "histogram", "Seconds from a request to the end of its answer", rows)


def _family(name: str, kind: str, about: str, rows: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {about}."
    yield f"# TYPE {name} {kind}"
    yield from (f"{name}{label} {value}" for label, value in rows)
