"""The monitor's own process: it reads what the machine says of a run's processes and GPUs, and prints a line a period.

A driver or a file system may hang a reader without a timeout. Here that costs the readings, and nothing of the run.
"""

# A Python without site-packages runs this file: standard library only, but for NVIDIA's own module.
from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

from launcher.core import processes

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
STATES = {"R": "running", "S": "sleeping", "I": "sleeping", "D": "blocked", "T": "stopped", "t": "stopped"}
"""What the letters of proc(5) mean; any other stands for a process that has ended."""
ENDED = "ended"
PACKAGE = b"launcher."
FOLDER = os.fsencode(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + b"/"  # noqa: PTH100, PTH120
SHORT = {
    "launcher.core.reaper": "reaper",
    "launcher.core.cleanup": "cleanup",
    "launcher.proxy.worker": "proxy worker",
    "launcher.backends.ray.driver": "ray driver",
    "launcher.backends.ray.node": "ray node",
    "launcher.checkpoints.tokenizers.template_worker": "chat template",
    "launcher.checkpoints.tokenizers.probe_worker": "tokenizer probe",
    "launcher.tasks.bounded_worker": "scorer",
}
"""What the processes of the launcher's modules are called; those of others have the name that the system shows."""
MOST = 64
"""The most processes in a line: the largest."""


class Known(NamedTuple):
    """A process that was seen: when it started, in ticks since the machine did, its name, and its CPU time in ticks.

    The name is ``sure`` once it was read twice: a child has its parent's command until it runs its own.
    """

    started: int
    name: str
    ticks: int
    sure: bool


class Processes:
    """Reads a process and all that it has started; one that was seen is followed to its end, wherever it belongs."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: dict[int, Known] = {}
        self._at = time.monotonic()

    def read(self) -> list[dict[str, Any]]:
        """Return a line for each process; one that has ended is in it once."""
        now = time.monotonic()
        elapsed_s, self._at = now - self._at, now
        found = _tree(self._root)
        pids = dict.fromkeys(pid for pid in (*found, *self._known) if pid != os.getpid())
        lines = [line for pid in pids if (line := self._line(pid, elapsed_s)) is not None]
        return sorted(lines, key=lambda line: line["memory_mib"], reverse=True)[:MOST]

    def _line(self, pid: int, elapsed_s: float) -> dict[str, Any] | None:
        stat, known = _stat(pid), self._known.get(pid)
        started = int(stat[19]) if stat else 0
        if stat is None or stat[0] not in STATES or (known is not None and known.started != started):
            self._known.pop(pid, None)
            return None if known is None else _described(known.name, pid, ENDED)
        ticks = int(stat[11]) + int(stat[12])
        name = known.name if known is not None and known.sure else self._name(pid, int(stat[1]))
        self._known[pid] = Known(started, name, ticks, sure=known is not None)
        share = 0 if known is None or elapsed_s <= 0 else round((ticks - known.ticks) / TICKS_PER_S / elapsed_s * 100)
        return _described(name, pid, STATES[stat[0]], int(stat[21]) * PAGE_BYTES // MIB, share)

    def _name(self, pid: int, parent: int) -> str:
        if pid == self._root:
            return "launcher"
        module = _module(pid)
        if module and module == _module(parent):
            return processes.name(pid)
        if module.endswith("megatron.worker"):
            return f"rank {_environment(pid, 'LAUNCHER_RANK') or '?'}"
        if module:
            return SHORT.get(module, module.removeprefix("launcher."))
        own = processes.name(pid)
        above = self._known[parent].name if parent in self._known else ""
        return f"server ({own})" if above.startswith(("reaper", "server (")) else own


def _described(name: str, pid: int, state: str, memory_mib: int = 0, cpu_percent: int = 0) -> dict[str, Any]:
    alive = state != ENDED
    return {
        "name": name, "pid": pid, "alive": alive, "memory_mib": memory_mib, "state": state, "cpu_percent": cpu_percent
    }  # fmt: skip


def _tree(root: int) -> list[int]:
    """Return a process and its descendants; where the kernel lists no children, all processes are searched."""
    if not (processes.PROC / "self" / "task" / str(os.getpid()) / "children").exists():
        return [root, *processes.descendants(root)]
    found = [root]
    for pid in found:  # which grows while it is read
        found += _children(pid)
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in (processes.PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())


def _stat(pid: int) -> list[str] | None:
    """Return the fields of proc(5) from the third on; None without such a process."""
    try:
        return (processes.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split() or None
    except (OSError, ValueError):
        return None


def _module(pid: int) -> str:
    """Return the launcher's module that a process runs; empty for any other program."""
    with suppress(OSError):
        words = (processes.PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        for before, word in pairwise(words):
            if before == b"-m" and word.startswith(PACKAGE):
                return word.decode(errors="replace")
            if word.startswith(FOLDER) and word.endswith(b".py"):
                return f"launcher.{word[len(FOLDER) : -3].decode(errors='replace').replace('/', '.')}"
            if before == b"-c" and b" import main; main(" in word and b"from launcher." in word:
                return word.partition(b"from ")[2].partition(b" ")[0].decode(errors="replace")
    return ""


def _environment(pid: int, name: str) -> str:
    with suppress(OSError):
        for entry in (processes.PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == name.encode():
                return value.decode(errors="replace")
    return ""


class Gpus:
    """Reads the GPUs through NVIDIA's library, as far as there are any; ``missing`` says why there is nothing."""

    def __init__(self, package: str) -> None:
        self._nvml: Any = None
        self.missing = ""
        if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110
            return
        if not package:
            self.missing = "GPUs are not read: pip install 'nemo-megatron-launcher[gpu]'"
            return
        sys.path.append(package)
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
        except Exception as error:  # the library of the driver raises errors of its own
            self.missing = f"GPUs are not read: {type(error).__name__}: {error}"

    def read(self) -> list[dict[str, int]]:
        return [] if self._nvml is None else list(self._each())

    def _each(self) -> Iterator[dict[str, int]]:
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):  # a slice of a GPU has no utilization of its own
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                yield {
                    "index": index,
                    "memory_mib": int(memory.used) // MIB,
                    "memory_total_mib": int(memory.total) // MIB,
                    "utilization_percent": _utilization(nvml, handle),
                }


def _utilization(nvml: Any, handle: Any) -> int:
    with suppress(nvml.NVMLError):
        return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    return 0


def main(root: str, period_s: str, nvml_package: str) -> None:
    """Print a line of JSON each period, until standard input ends as it does with the launcher."""
    tree, gpus, period = Processes(int(root)), Gpus(nvml_package), float(period_s)
    while True:
        start = time.process_time()
        line: dict[str, Any] = {"processes": tree.read(), "gpus": gpus.read(), "missing": gpus.missing}
        line["cpu_s"] = time.process_time() - start
        try:
            print(json.dumps(line), flush=True)
        except OSError:
            return
        ready, _, _ = select.select([0], [], [], period)
        if ready and not os.read(0, 64):
            return
