"""How a Ray of ours begins, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends.ray.ray_engines import Damaged, Killed
from backends.ray.ray_faults import dies, hangs, lives_through, scores_of, sums
from backends.ray.ray_service import Service, get, post, private_folder, served, wait_for

from launcher.allocation import allocate
from launcher.backends.base import Deployment
from launcher.backends.ray import Ray, home
from launcher.backends.ray.assignment import Routing
from launcher.core import Endpoint
from launcher.engines.echo import Echo
from launcher.errors import ServerError
from launcher.model import Model, Optimizations, Parallelism

pytest.importorskip("ray")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("engine", "reason"), [(Damaged(), "shard 7 is damaged"), (Killed(), "its process died")])
def test_a_replica_that_does_not_load_is_an_error_with_its_reason(engine: Echo, reason: str, tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), engine, Parallelism(), Optimizations(), tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=reason), Ray(port=port).serve(deployment, allocate()):
        pass
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


class Launched:
    """A launcher that serves, with a Ray of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        given = ("backend=ray", "engine=echo", "model=none", "mode=serve", f"hydra.run.dir={folder}")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder.parent,
        )

    def up(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return (self.folder / "certificate.json").exists()

    def service(self) -> Service:
        url = json.loads((self.folder / "endpoint.json").read_text())["url"]
        return Service(Endpoint(url, "echo", "ray", "echo"), self.folder, 1)


def test_each_launcher_takes_its_own_ray_with_it_however_it_ends(tmp_path: Path) -> None:
    launched = {n: Launched(tmp_path / n.name) for n in (signal.SIGKILL, signal.SIGTERM)}
    try:
        for each in launched.values():
            wait_for(each.up, "a launcher serves")
        sessions = {number: each.service().driver() for number, each in launched.items()}
        assert len(set(sessions.values())) == 2
        for number in list(launched):
            ends(launched.pop(number), number, sessions[number])
            assert all(each.service().whole() for each in launched.values())
    finally:
        for each in launched.values():
            each.process.terminate()
            each.process.communicate(timeout=60)


def ends(launched: Launched, number: signal.Signals, session: int) -> None:
    """End a launcher with a signal; nothing of it may be left, even if the process that owns Ray hangs meanwhile."""
    folder = private_folder(session)
    assert len(home.members(session)) > 5
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0, "nobody else sees the token, the secret and the sockets in it"
    if number is signal.SIGKILL:
        hangs(session)
    launched.process.send_signal(number)
    launched.process.communicate(timeout=60)
    assert launched.process.returncode == (-number if number is signal.SIGKILL else 0)
    wait_for(lambda: not home.members(session) and not folder.exists(), "all of this Ray is gone")


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas of an engine without a model; the same beginning of a prompt goes to the same one."""
    folder, engine = tmp_path_factory.mktemp("echoes"), Echo(latency_s=0.1)
    with served(folder, engine, Model("echo"), Parallelism(), routing=Routing.prefix) as service:
        yield service


def generated(service: Service) -> list[int]:
    """Return each replica's tokens, once their reports have caught up with what they answer themselves."""
    found: list[int] = []

    def caught_up() -> bool:
        health = service.health()
        found[:] = [line["generated_tokens"] for line in health["replicas"]]
        return sum(found) == health["engine"]["generated_tokens"]

    wait_for(caught_up, "all tokens are reported")
    return found


def test_two_replicas_are_told_apart(echoes: Service) -> None:
    """Also: no signal from a terminal reaches them, and a prompt comes back to the replica that has seen it."""
    pids = echoes.replicas()
    metrics = get(echoes.endpoint, "/metrics").decode()
    assert all(f'pid="{pid}"' in metrics for pid in pids)
    assert "launcher_replicas 2.0" in metrics
    assert os.getsid(pids[0]) != os.getsid(0)

    before = generated(echoes)
    for _ in range(8):
        asked = {"model": "echo", "prompt": "the same prompt " * 40, "max_tokens": 3, "ignore_eos": True}
        post(echoes.endpoint, "/v1/completions", asked)
    assert sorted(b - a for a, b in zip(before, generated(echoes), strict=True)) == [0, 24]


def test_a_ray_that_is_lost_is_replaced(echoes: Service, tmp_path: Path) -> None:
    """The raylet, the GCS and the owner of Ray cannot be replaced alone: a whole new Ray takes over the socket."""
    task = sums(tmp_path / "sums.jsonl")
    expected = scores_of(echoes, tmp_path / "undisturbed", task, lambda: None)
    # What hangs comes between: three losses in a row, each soon after a start, end a service.
    faults = [("raylet", dies), ("gcs_server", hangs), ("driver", dies)]
    faults += [("raylet", hangs), ("gcs_server", dies), ("driver", hangs)]
    for name, befalls in faults:
        driver, folder = echoes.driver(), tmp_path / f"{name} {befalls.__name__}"
        victim = driver if name == "driver" else echoes.named(name)
        lives_through(echoes, [(victim, befalls)], folder, task, expected, driver)
