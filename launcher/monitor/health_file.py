"""Writes ``health.jsonl``: what the probes, the canary, the processes and the evaluation's own traffic say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.health import Probe
from launcher.core.reading import ProcessReading, Reading
from launcher.core.redaction import redact
from launcher.core.traffic import Traffic
from launcher.core.types import Endpoint, Json, Liveness, ServerState
from launcher.monitor.canary import Canary
from launcher.monitor.counts import Counts, ServerMetrics, of_health
from launcher.monitor.replicas import Replicas
from launcher.monitor.sampling import Sampling
from launcher.settings.monitor import Monitor

WATCHED = ("rank ", "reaper", "server (", "proxy worker", "ray", "gcs_server", "haproxy", "triton")
"""How the names of processes begin whose end, stop and return are events; others come and go."""


class HealthFile:
    """The readings of one session. ``note`` may be called from any thread, `write` from one.

    Until `start_canary` no canary is sent: the checks of a certificate come first.
    """

    def __init__(self, path: Path, endpoint: Endpoint, settings: Monitor) -> None:
        self.traffic = Traffic()
        self.period_s = settings.period_s
        self._path, self._endpoint, self._timeout_s = path, endpoint, settings.canary_timeout_s
        wanted = settings.canary if settings.canary is not None else endpoint.backend != "external"
        self._wants_canary = wanted
        self._canary: Canary | None = None
        self._canary_why: str | None = None
        self._noted: deque[str] = deque()
        self._sampling = Sampling(settings.period_s)
        self._metrics = ServerMetrics(endpoint)
        self._changes = ProcessChanges()
        self._health: Json = None
        self._replicas = Replicas(lambda: self._health)
        self._before: tuple[float, Counts, int, int, int] | None = None
        self._state = Liveness.live
        self._written_at = float("-inf")
        self._writes = True
        self._events = 0
        self._last: Reading | None = None

    def note(self, event: str) -> None:
        """Keep an event for the next reading."""
        self._noted.append(event)

    def start_canary(self, endpoint: Endpoint) -> None:
        """Send canaries from now on, to an endpoint whose certificate is valid."""
        if self._wants_canary:
            self._canary = Canary(endpoint, self._timeout_s)

    def close(self) -> None:
        """Write the events that came after the last reading, and end the monitor's process."""
        if self._noted and self._last is not None:
            self._append(replace(self._last, time=round(time.time(), 3), **self._taken_events()))
        self._sampling.close()

    def take(self, line: Probe, state: ServerState) -> None:
        """Write a reading after a probe, once a period, and at once after a change."""
        if state.liveness is not self._state:
            self._state = state.liveness
            self.note(state.explanation)
        due = time.monotonic() - self._written_at >= self.period_s * 0.9
        if due or self._noted:
            self._written_at = time.monotonic()
            self._last = self._reading(line, state)
            self._append(self._last)

    def _reading(self, line: Probe, state: ServerState) -> Reading:
        self._health = line["detail"] if self._endpoint.is_builtin else None
        counts = self._counts(state)
        rates = self._rates(counts)
        sample, said = self._sampling.look()
        for event in (*said, *self._changes.since(sample.processes), *self._replicas.losses()):
            self.note(event)
        seconds = self._canary_seconds(state, answered=bool(rates[2]), processes=sample.processes)
        return Reading(
            time=round(time.time(), 3),
            state=state.liveness.value,
            ready=state.liveness is Liveness.live and self._canary_why is None,
            reason=state.reason,
            latency_s=line["latency_s"],
            canary_s=seconds,
            in_flight=counts.running if counts.running is not None else self.traffic.in_flight,
            queued=counts.queued,
            tokens_per_s=rates[0],
            error_rate=rates[1],
            processes=sample.processes,
            gpus=sample.gpus,
            health=self._health,
            **self._taken_events(),
        )

    def _counts(self, state: ServerState) -> Counts:
        if self._endpoint.is_builtin:
            return of_health(self._health)
        return self._metrics.read() if state.liveness is Liveness.live else Counts()

    def _taken_events(self) -> dict[str, Json]:
        events = tuple(self._noted.popleft() for _ in range(len(self._noted)))
        self._events += len(events)
        return {"events": events, "events_total": self._events}

    def _rates(self, counts: Counts) -> tuple[float | None, float | None, int]:
        """Return tokens per second, the share of requests that failed, and what was answered, since the last call."""
        own = self.traffic
        now = (time.monotonic(), counts, own.generated_tokens, own.answered, own.failed)
        before, self._before = self._before, now
        if before is None:
            return None, None, 1
        tokens, had = counts.generated_tokens, before[1].generated_tokens
        new = own.generated_tokens - before[2] if tokens is None or had is None else max(0, tokens - had)
        answered, failed = own.answered - before[3], own.failed - before[4]
        rate = failed / (answered + failed) if answered + failed else None
        return round(new / max(now[0] - before[0], 1e-3), 1), rate and round(rate, 4), answered + (new > 0)

    def _canary_seconds(
        self, state: ServerState, *, answered: bool, processes: Iterable[ProcessReading]
    ) -> float | None:
        """Take the outcome of a canary, and send the next where no answer shows already that the server works."""
        if self._canary is None:
            return None
        outcome = self._canary.take()
        if outcome is not None and outcome.why and outcome.why != self._canary_why:
            suspects = ", ".join(f"{p.name} (pid {p.pid}) is {p.state}" for p in processes if _is_suspect(p))
            self.note(f"the canary {outcome.why}{f'; {suspects}' if suspects else ''}")
        if (answered or (outcome is not None and not outcome.why)) and self._canary_why is not None:
            self.note("the canary is answered again" if outcome is not None else "requests are answered again")
        if outcome is not None or answered:
            self._canary_why = outcome.why or None if outcome is not None and not answered else None
        if not answered and state.liveness is Liveness.live:
            self._canary.send(self.traffic.path)
        return None if outcome is None or outcome.why else outcome.seconds

    def _append(self, reading: Reading) -> None:
        """Append a reading to the file; print one line if that fails after it succeeded."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(redact(reading.line()) + "\n")
        except OSError as error:
            if self._writes:
                to_stderr(f"{self._path}: cannot be written: {error.strerror or error}; the server is still probed")
            self._writes = False
        else:
            self._writes = True


class ProcessChanges:
    """Compares the processes of two readings: which ended, stopped, run again, or took the place of an ended one."""

    def __init__(self) -> None:
        self._states: dict[int, str] = {}
        self._ended: set[str] = set()

    def since(self, processes: Iterable[ProcessReading]) -> Iterator[str]:
        """Yield a line for each change since the last call, of the processes that a server needs."""
        for process in sorted(processes, key=lambda each: each.alive):  # one that ended, before its successor
            if process.name.startswith(WATCHED):
                yield from self._change(process)

    def _change(self, process: ProcessReading) -> Iterator[str]:
        who, before = f"{process.name} (pid {process.pid})", self._states.get(process.pid)
        if not process.alive:
            self._states.pop(process.pid, None)
            self._ended.add(process.name)
            yield f"{who} has ended"
            return
        self._states[process.pid] = process.state
        if before is None and process.name in self._ended:
            self._ended.discard(process.name)
            yield f"{who} has started"
        if process.state == "stopped" and before != "stopped":
            yield f"{who} is stopped"
        if before == "stopped" and process.state != "stopped":
            yield f"{who} runs again"


def _is_suspect(process: ProcessReading) -> bool:
    return process.name.startswith(WATCHED) and process.state in ("stopped", "blocked", "ended")
