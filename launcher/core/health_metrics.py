"""The last reading of a run's health in Prometheus' text format, for ``/metrics`` of its server and of its proxy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.core.reading import Reading, readings
from launcher.core.run_folder import RunFolder

STALE_S = 60.0
"""An older reading says nothing of the present: its run has ended, or its monitor hangs."""
TAIL_BYTES = 1 << 17
GAUGES: Mapping[str, str] = {
    "launcher_health_live": "1 while the server answers its health probes",
    "launcher_health_ready": "1 while the server is live and no canary is unanswered",
    "launcher_health_probe_seconds": "Seconds of the last health probe",
    "launcher_health_canary_seconds": "Seconds of the canary that was answered in the last period",
    "launcher_health_in_flight": "Requests that the server computes",
    "launcher_health_queued": "Requests that wait in the server",
    "launcher_health_tokens_per_second": "Tokens generated per second",
    "launcher_health_error_ratio": "Share of failed requests among those that ended in the last period",
    "launcher_health_events": "Events since the session began",
    "launcher_health_reading_time_seconds": "When the reading was made, in seconds since 1970",
    "launcher_health_process_up": "1 for a process that lives",
    "launcher_health_process_memory_bytes": "Resident memory of a process",
    "launcher_health_process_cpu_percent": "Share of one CPU that a process used",
    "launcher_health_gpu_memory_bytes": "Memory of a GPU in use",
    "launcher_health_gpu_utilization_percent": "How busy a GPU was",
}
"""What each metric is. Those of processes and GPUs have labels."""

Row = tuple[str, dict[str, str], float | None]


def text(folder: Path) -> bytes:
    """Return the metrics of the last reading in a run folder; nothing where there is no fresh one."""
    reading = last(RunFolder(folder).health)
    if reading is None or time.time() - reading.time > STALE_S:
        return b""
    return "".join(_lines(list(_rows(reading)))).encode()


def last(path: Path) -> Reading | None:
    """Return the last whole reading of a file; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    return next(readings(reversed(lines)), None)


def _rows(r: Reading) -> Iterator[Row]:
    prefix = "launcher_health_"
    values = {
        "live": float(r.state == "live"),
        "ready": float(r.ready),
        "probe_seconds": r.latency_s,
        "canary_seconds": r.canary_s,
        "in_flight": r.in_flight,
        "queued": r.queued,
        "tokens_per_second": r.tokens_per_s,
        "error_ratio": r.error_rate,
        "events": r.events_total,
        "reading_time_seconds": r.time,
    }
    yield from ((prefix + name, {}, value) for name, value in values.items())
    for process in r.processes:
        labels = {"process": process.name, "pid": str(process.pid)}
        yield f"{prefix}process_up", labels, float(process.alive)
        yield f"{prefix}process_memory_bytes", labels, process.memory_mib * 2**20
        yield f"{prefix}process_cpu_percent", labels, process.cpu_percent
    for gpu in r.gpus:
        yield f"{prefix}gpu_memory_bytes", {"gpu": str(gpu.index)}, gpu.memory_mib * 2**20
        yield f"{prefix}gpu_utilization_percent", {"gpu": str(gpu.index)}, gpu.utilization_percent


def _lines(rows: list[Row]) -> Iterator[str]:
    for name, about in GAUGES.items():
        found = [(labels, value) for of, labels, value in rows if of == name and value is not None]
        if found:
            yield f"# HELP {name} {about}.\n# TYPE {name} gauge\n"
            yield from (f"{name}{_labelled(labels)} {value}\n" for labels, value in found)


def _labelled(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    parts = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(parts)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
