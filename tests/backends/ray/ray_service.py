"""A server on Ray under test: its processes, and what they leave behind."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.backends.ray import Ray
from launcher.core import processes
from launcher.core.admission import Admission
from launcher.core.types import Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment, Engine
from launcher.settings.model import Model, Optimizations, Parallelism

PROBE_S = 6.0
"""A heartbeat timeout. Shorter is quicker, but a busy machine must not look like a hang."""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Wait until something holds; the limit is for a machine on which a start of Ray takes a minute."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def get(endpoint: Endpoint, path: str) -> bytes:
    return _answer(f"{endpoint.root}{path}")


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json"}
    return _answer(urllib.request.Request(f"{endpoint.root}{path}", json.dumps(body).encode(), headers))


def status(endpoint: Endpoint, path: str) -> int:
    """Return how a request without a key is answered."""
    try:
        get(endpoint, path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def _answer(request: str | urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        found = answer.read()
    assert isinstance(found, bytes)
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Service:
    """An endpoint, the folder that it was given, and the processes of the Ray behind it."""

    endpoint: Endpoint
    folder: Path
    wanted: int

    def health(self) -> dict[str, Any]:
        found = json.loads(get(self.endpoint, "/health"))
        assert isinstance(found, dict)
        return found

    def whole(self) -> bool:
        """Whether all replicas answer; False also while no replica does."""
        try:
            return self.health()["status"] == "live"
        except OSError:
            return False

    def replicas(self) -> list[int]:
        """Return the processes of the replicas, once all are there."""
        wait_for(self.whole, "all replicas answer")
        found = [line["pid"] for line in self.health()["replicas"]]
        assert len(found) == self.wanted
        return found

    def ranks(self) -> list[int]:
        """Return, for each replica, a rank that does not lead."""
        return [next(c.pid for c in psutil.Process(pid).children() if _follows(c)) for pid in self.replicas()]

    def generated(self) -> list[int]:
        """Return each replica's tokens, once their reports have caught up with what they answer themselves."""
        found: list[int] = []

        def caught_up() -> bool:
            health = self.health()
            found[:] = [line["generated_tokens"] for line in health["replicas"]]
            return sum(found) == health["engine"]["generated_tokens"]

        wait_for(caught_up, "all tokens are reported")
        return found

    def drivers(self) -> list[int]:
        """Return the processes that own this Ray: one, or none between two. Its number is that of the session."""
        found = [p for p in psutil.process_iter() if "launcher.backends.ray.driver" in _words(p)]
        return [p.pid for p in found if _writes(p, self.folder / "server.driver.log")]

    def driver(self) -> int:
        """Return the process that owns this Ray, once all replicas are there."""
        self.replicas()
        (pid,) = self.drivers()
        return pid

    def named(self, name: str) -> int:
        """Return the only process of a name among those of this Ray."""
        (found,) = [pid for pid in processes.in_session(self.driver()) if processes.name(pid) == name]
        return found


def _follows(process: psutil.Process) -> bool:
    return "launcher.engines.megatron.worker" in _words(process)


def _writes(process: psutil.Process, file: Path) -> bool:
    """Whether a process has a file open."""
    with suppress(psutil.Error):
        return str(file.resolve()) in [each.path for each in process.open_files()]
    return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def served(folder: Path, engine: Engine, model: Model, parallelism: Parallelism, **ray: Any) -> Iterator[Service]:
    """Serve from two replicas, to everybody; afterwards nothing of them may be left."""
    admission = Admission()
    deployment = Deployment(model, engine, parallelism, Optimizations(), folder, admission)
    with Ray(replicas=2, probe_timeout_s=PROBE_S, **ray).serve(deployment, allocate()) as endpoint:
        service = Service(endpoint, folder, 2)
        assert status(endpoint, "/v1/models") == 503, "only the validator is admitted"
        admission.open()
        assert status(endpoint, "/v1/models") != 503, "every client is admitted"
        yield service
        left = [(driver, private_folder(driver)) for driver in service.drivers()]
    assert left
    said = [json.loads(line) for line in (folder / "ray.log").read_text().splitlines()]
    assert {line["process"] for line in said} == {"ray"}
    for driver, private in left:
        assert not processes.in_session(driver), "processes of Ray are left"
        assert not private.exists(), "the folder with Ray's token is left"


def private_folder(driver: int) -> Path:
    """Return the folder that a driver was given."""
    variables = Path(f"/proc/{driver}/environ").read_bytes().decode().split("\0")
    return Path(next(v for v in variables if v.startswith("RAY_AUTH_TOKEN_PATH=")).partition("=")[2]).parent
