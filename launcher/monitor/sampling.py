"""The monitor's process as the launcher sees it: what it read last; it is started again when it ends or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from launcher.core.cleanup import isolated
from launcher.core.console import to_stderr
from launcher.core.reading import GpuReading, ProcessReading
from launcher.core.reaped import described_exit
from launcher.core.restart_budget import RestartBudget
from launcher.core.types import Json

MODULE = "launcher.monitor.sampler"
START_DELAY_S = 1.0
"""A run that ends within this time needs no monitor."""
HANG_S, HANG_PERIODS = 15.0, 4
"""A process without a line for so long, and for so many periods, hangs."""
RESTARTS, STABLE_S = 3, 60.0
END_S = 2.0


@dataclass(frozen=True)
class Sample:
    """What the process read at one time."""

    processes: tuple[ProcessReading, ...] = ()
    gpus: tuple[GpuReading, ...] = ()


@dataclass
class _Child:
    """One life of the process; ``read_at`` is when its last line came, ``lines`` those that were not taken yet."""

    popen: subprocess.Popen[bytes]
    read_at: float
    began: float
    lines: deque[Json] = field(default_factory=deque)

    def read(self) -> None:
        assert self.popen.stdout is not None
        with suppress(OSError, ValueError):
            for line in self.popen.stdout:
                self.lines.append(json.loads(line))
                self.read_at = time.monotonic()


class Sampling:
    """Starts the process, reads its lines, and starts it again; `look` never waits for it."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._begun = time.monotonic()
        self._child: _Child | None = None
        self._budget = RestartBudget(RESTARTS, STABLE_S)
        self._last = Sample()
        self._told = ""

    def look(self) -> tuple[Sample, list[str]]:
        """Return the last sample, and what is to be said of the monitor since the last call.

        A process that ended is in the sample of one call, also if several lines came.
        """
        if self._child is None:
            if self._budget.exhausted or time.monotonic() - self._begun < START_DELAY_S:
                return self._last, []
            self._start()
            return self._last, []
        events = list(self._taken(self._child))
        if (why := self._fault(self._child)) is not None:
            events.append(self._ended(self._child, why))
        for event in events:
            to_stderr(f"monitor: {event}")
        return self._last, events

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            _end(self._child.popen, END_S)

    def _start(self) -> None:
        now = time.monotonic()
        popen = subprocess.Popen(
            isolated(MODULE, str(os.getpid()), str(self._period_s), _nvml_package()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach only the launcher
        )
        self._child = _Child(popen, now, now)
        threading.Thread(target=self._child.read, name="monitor", daemon=True).start()

    def _taken(self, child: _Child) -> Iterator[str]:
        """Keep what the new lines say; yield what the process cannot read."""
        lines = [child.lines.popleft() for _ in range(len(child.lines))]
        if lines:
            ended = [each for line in lines[:-1] for each in _processes(line) if not each.alive]
            self._last = Sample((*_processes(lines[-1]), *ended), tuple(GpuReading(**gpu) for gpu in lines[-1]["gpus"]))
        else:
            self._last = Sample(tuple(each for each in self._last.processes if each.alive), self._last.gpus)
        for line in lines:
            if line["missing"] and line["missing"] != self._told:
                self._told = line["missing"]
                yield self._told

    def _fault(self, child: _Child) -> str | None:
        """Return why the process is of no use, None if it works."""
        pid, code = child.popen.pid, child.popen.poll()
        if code is not None:
            return f"the monitor (pid {pid}) {described_exit(code)}"
        silent_s = time.monotonic() - child.read_at
        if silent_s > max(HANG_S, HANG_PERIODS * self._period_s):
            return f"the monitor (pid {pid}) hangs: no reading for {silent_s:.0f} s"
        return None

    def _ended(self, child: _Child, why: str) -> str:
        self._budget.record_failure(time.monotonic() - child.began)
        _end(child.popen, 0.0)
        self._child, self._last = None, Sample()
        if self._budget.exhausted:
            return f"{why}; processes and GPUs are read no more, and the run goes on"
        return f"{why}; it is started again"


def _end(popen: subprocess.Popen[bytes], grace_s: float) -> None:
    if popen.stdin is not None:
        popen.stdin.close()
    try:
        popen.wait(grace_s)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _processes(line: Json) -> tuple[ProcessReading, ...]:
    return tuple(ProcessReading(**process) for process in line["processes"])


def _nvml_package() -> str:
    """Return the folder of NVIDIA's Python module; empty where it is not installed."""
    spec = find_spec("pynvml")
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
