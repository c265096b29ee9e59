"""Processes that render chat templates; one that exceeds its limits is killed and replaced."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.checkpoints.tokenizers.template_worker import SIZE, packed
from launcher.core.tokenizer import TemplateLimits, TemplateRefused
from launcher.core.types import Json

SCRIPT = Path(__file__).with_name("template_worker.py")
MEMORY = 256 * 2**20
"""The address space in bytes that rendering may take beyond what an idle worker has."""
WORKERS = 2
"""So many conversations are rendered at the same time; a template that loops for one holds up at most that many."""
PATIENCE = 10
"""A busy machine may take so many times longer for a template than the CPU time that it has."""
START_S = 30.0
"""Python and jinja2 are loaded within this time, also on a busy machine."""
MB = 2**20
KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL")
"""The environment of a worker: what Python needs, and none of the launcher's secrets."""


class WorkerGone(Exception):
    """A worker ended, or was ended, before it answered; ``timed_out`` says that it had used up its time."""

    def __init__(self, timed_out: bool) -> None:
        super().__init__()
        self.timed_out = timed_out


class Worker:
    """One process that has compiled the template. ``facts`` is what it said of it, or the error."""

    def __init__(self, source: str, limits: TemplateLimits) -> None:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self._wait_s = PATIENCE * limits.timeout_s
        try:
            opening = {"template": source, "cpu_s": limits.timeout_s, "memory": MEMORY}
            self.facts: Mapping[str, Json] = self.ask(packed(opening), START_S)
        except BaseException:
            self.close()
            raise

    def ask(self, request: bytes, more_s: float = 0.0) -> Mapping[str, Json]:
        """Send a packed request and return the answer. Raises `WorkerGone`."""
        deadline = time.monotonic() + self._wait_s + more_s
        try:
            self._send(request, deadline)
            (size,) = SIZE.unpack(self._receive(SIZE.size, deadline))
            return _json(self._receive(size, deadline))
        except (BrokenPipeError, EOFError):
            ended = self._process.wait()
            raise WorkerGone(ended == -signal.SIGPROF) from None
        except TimeoutError:
            self._process.kill()
            raise WorkerGone(True) from None

    def lives(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, and wait for it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def _send(self, data: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor, rest = self._process.stdin.fileno(), memoryview(data)
        while rest:
            _wait(descriptor, select.POLLOUT, deadline)
            rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, data = self._process.stdout.fileno(), bytearray()
        while len(data) < size:
            _wait(descriptor, select.POLLIN, deadline)
            part = os.read(descriptor, size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be used. Raises `TimeoutError`. Unlike select, poll takes any number of open files."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _json(data: bytes) -> Mapping[str, Json]:
    found: Mapping[str, Json] = json.loads(data.decode("utf-8", "surrogatepass"))
    return found


class TemplateProcess:
    """Renders one template in at most `WORKERS` processes, which start when they are needed. Safe over threads."""

    def __init__(self, source: str, limits: TemplateLimits) -> None:
        self._source = source
        self._limits = limits
        self._idle: list[Worker] = []
        self._free = threading.BoundedSemaphore(WORKERS)
        self._closed = False

    def facts(self) -> Mapping[str, Json]:
        """Return ``variables`` and ``parts`` of the template. Raises `TemplateRefused` if it does not compile."""
        with self._worker() as worker:
            return worker.facts

    def render(self, variables: Mapping[str, Json]) -> str:
        """Return the text. Raises `TemplateRefused` with the template's own complaint, or the bound that it exceeds."""
        size = len(packed(variables))
        limit = int(self._limits.max_mb * MB) + size
        with self._worker() as worker:
            answer = worker.ask(packed({"variables": variables, "limit": limit, "size": size}))
        if "bound" in answer:
            raise TemplateRefused(self._exceeded(answer["bound"]), bound=True)
        if "error" in answer:
            raise TemplateRefused(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """End all processes; rendering raises `TemplateRefused` from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """Lend an idle worker, or a new one; one that fails is not lent again."""
        with self._free:
            worker = None
            try:
                worker = self._take()
                yield worker
            except WorkerGone as gone:
                if worker is not None:
                    worker.close()
                raise TemplateRefused(self._exceeded("time" if gone.timed_out else "memory"), bound=True) from None
            except BaseException:
                if worker is not None:
                    worker.close()
                raise
            self._return(worker)

    def _take(self) -> Worker:
        if self._closed:
            raise TemplateRefused("the server is stopping")
        with suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.lives():
                    return worker
                worker.close()
        worker = Worker(self._source, self._limits)
        if "bound" not in worker.facts and "error" not in worker.facts:
            return worker
        worker.close()
        reason = worker.facts.get("error") or self._exceeded(worker.facts["bound"])
        raise TemplateRefused(reason)

    def _return(self, worker: Worker) -> None:
        self._idle.append(worker)
        if self._closed:
            self.close()

    def _exceeded(self, bound: str) -> str:
        if bound == "time":
            return f"it computes longer than model.chat_template_timeout_s={self._limits.timeout_s:g}"
        if bound == "size":
            return f"it writes more than model.chat_template_max_mb={self._limits.max_mb:g} beyond the messages"
        return f"it needs more than {MEMORY // MB} MB of memory"
