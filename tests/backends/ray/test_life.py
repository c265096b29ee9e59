"""The start and the end of a local Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import psutil
import pytest

from launcher.backends.balancer import Routing
from launcher.backends.ray import Ray, supervisor
from launcher.backends.ray.driver import POLL_INTERVAL_S
from launcher.core import processes
from launcher.core.errors import ServerError
from launcher.core.types import INTERRUPTED, Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism
from launcher.tasks.generation import Generation
from tests.backends.ray.ray_engines import Damaged, Fatal, Killed
from tests.backends.ray.ray_faults import Scores, dies, hangs, lives_through, scores_of
from tests.backends.ray.ray_service import Service, get, post, private_folder, served, wait_for

MAX_QUICK_LOSSES = supervisor.MAX_QUICK_LOSSES  # before a fixture of this module raises it in this process

pytest.importorskip("ray")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
CONTROLLER = "ray::ServeContr"
"""What the kernel keeps of its name."""


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


def test_an_owner_of_ray_that_dies_without_a_word_is_said_to_have_died(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Fatal(), Parallelism(), Optimizations(), tmp_path)
    with pytest.raises(ServerError, match=supervisor.DIED), Ray().serve(deployment, allocate()):
        pass


SERVES = ("mode=serve",)
EVALUATES = ("tasks=[addition]", "evaluate.repeats=1000", "evaluate.concurrency=8", "engine.latency_s=0.1")


class Launched:
    """A launcher with a Ray of its own."""

    def __init__(self, folder: Path, *what: str) -> None:
        self.folder = folder
        given = ("backend=ray", "engine=echo", "model=none", f"hydra.run.dir={folder}", *what)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder.parent,
        )

    def up(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return (self.folder / "endpoint.json").exists()

    def evaluates(self) -> bool:
        samples = self.folder / "samples.jsonl"
        return self.up() and samples.exists() and samples.stat().st_size > 0

    def service(self) -> Service:
        url = json.loads((self.folder / "endpoint.json").read_text())["url"]
        return Service(Endpoint(url, "echo", "ray", "echo"), self.folder, 1)


def test_each_launcher_takes_its_own_ray_with_it_however_it_ends(tmp_path: Path) -> None:
    """SIGINT, which is Ctrl-C, comes in the middle of an evaluation."""
    asked = {signal.SIGKILL: SERVES, signal.SIGTERM: SERVES, signal.SIGINT: EVALUATES}
    launched = {number: Launched(tmp_path / number.name, *what) for number, what in asked.items()}
    try:
        for number, each in launched.items():
            wait_for(each.evaluates if number is signal.SIGINT else each.up, "a launcher is at work")
        sessions = {number: each.service().driver() for number, each in launched.items()}
        assert len(set(sessions.values())) == 3
        for number in list(launched):
            ends(launched.pop(number), number, sessions[number])
            assert all(each.service().whole() for each in launched.values())
    finally:
        for each in launched.values():
            each.process.terminate()
            each.process.communicate(timeout=60)


ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED}


def ends(launched: Launched, number: signal.Signals, session: int) -> None:
    """End a launcher with a signal; no process of its Ray may be left, even if the driver hangs."""
    folder = private_folder(session)
    assert len(processes.in_session(session)) > 5
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0, "no other user sees its token, secret and sockets"
    if number is signal.SIGKILL:
        hangs(session)
    launched.process.send_signal(number)
    launched.process.communicate(timeout=60)
    assert launched.process.returncode == ENDS[number]
    wait_for(lambda: not processes.in_session(session) and not folder.exists(), "all of this Ray is gone")


@pytest.mark.soak
def test_a_run_says_why_it_ends_when_ray_is_lost_again_and_again(tmp_path: Path) -> None:
    """Also: a raylet that dies while Ray starts is noticed, although Ray's own client goes on waiting for it."""
    launched = Launched(tmp_path / "run", *EVALUATES, "adapters=[]")
    try:
        wait_for(launched.evaluates, "an evaluation runs")
        service = launched.service()

        def over() -> bool:
            for raylet in raylets(service):
                with suppress(ProcessLookupError):
                    hangs(raylet)  # without it no start is over
                    if _age(raylet) > 4 * POLL_INTERVAL_S:  # it has been there long enough to be missed
                        dies(raylet)
            return launched.process.poll() is not None

        wait_for(over, "the run ends")
    finally:
        launched.process.terminate()
        _, said = launched.process.communicate(timeout=60)
    times = f"{MAX_QUICK_LOSSES} times in a row"
    reason = f"Ray was lost {times}; last error: Ray's raylet died while it started"
    assert launched.process.returncode == 3
    assert [reason in line for line in said.splitlines() if line.startswith("launcher: ")] == [True], said
    assert reason in json.loads((launched.folder / "results.json").read_text())["reason"]


def raylets(service: Service) -> list[int]:
    return [
        pid for driver in service.drivers() for pid in processes.in_session(driver) if processes.name(pid) == "raylet"
    ]


def _age(pid: int) -> float:
    try:
        return time.time() - psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas of an engine without a model; the same beginning of a prompt goes to the same one."""
    folder, engine = tmp_path_factory.mktemp("echoes"), Echo(latency_s=0.1)
    with pytest.MonkeyPatch.context() as patch:
        # Here losses come soon after one another, and a busy machine may add a start that fails.
        patch.setattr(supervisor, "MAX_QUICK_LOSSES", 20)
        with served(folder, engine, Model("echo"), Parallelism(), routing=Routing.prefix) as service:
            yield service


def test_two_replicas_are_told_apart(echoes: Service) -> None:
    """Also: no signal from a terminal reaches them, and a prompt comes back to the replica that has seen it."""
    pids = echoes.replicas()
    metrics = get(echoes.endpoint, "/metrics").decode()
    assert all(re.search(rf'launcher_replica_state{{.*pid="{pid}",.*state="live"}} 1.0', metrics) for pid in pids)
    assert "launcher_replicas 2.0" in metrics
    assert os.getsid(pids[0]) != os.getsid(0)

    before = echoes.generated()
    for _ in range(8):
        asked = {"model": "echo", "prompt": "the same prompt " * 40, "max_tokens": 3, "ignore_eos": True}
        post(echoes.endpoint, "/v1/completions", asked)
        # One that HAProxy still counts is half as many again as the average: the next would go elsewhere.
        wait_for(lambda: not any(line["requests"] for line in echoes.health()["replicas"]), "the request is over")
    assert sorted(b - a for a, b in zip(before, echoes.generated(), strict=True)) == [0, 24]


def test_nothing_of_a_ray_on_one_host_listens_to_another_host(echoes: Service) -> None:
    """Serve's replicas and Ray's agents unpickle what they are sent."""
    driver = echoes.driver()
    listening = {
        (processes.name(pid), socket.laddr.ip)
        for pid in (driver, *processes.in_session(driver))
        for socket in psutil.Process(pid).net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert {"haproxy", "raylet", "gcs_server"} <= {name for name, _ in listening}
    assert any(name.startswith("ray::Serve") for name, _ in listening)
    assert {ip.removeprefix("::ffff:") for _, ip in listening} <= {"127.0.0.1", "::1"}, listening


@pytest.fixture(scope="module")
def undisturbed(echoes: Service, task: Generation, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_of(echoes, tmp_path_factory.mktemp("undisturbed") / "run", task, lambda: None)


def controllers(service: Service) -> list[str]:
    """Return why controllers of Serve were lost."""
    return [loss["reason"] for loss in service.health()["lost"] if "controller" in loss["reason"]]


def test_a_controller_that_is_lost_is_replaced(
    echoes: Service, task: Generation, undisturbed: Scores, tmp_path: Path
) -> None:
    """Also: a replica that is lost while the controller hangs, and which it would have replaced."""
    owner = echoes.driver()
    dies(echoes.named(CONTROLLER))
    wait_for(lambda: bool(controllers(echoes)), "the next one answers")
    victims: list[tuple[int, Callable[[int], None]]] = [(echoes.named(CONTROLLER), hangs), (echoes.replicas()[0], dies)]
    lives_through(echoes, victims, tmp_path / "controller hangs", task, undisturbed)
    assert controllers(echoes) == ["Serve's controller died", "Serve's controller hangs: no answer within 6 s"]
    assert echoes.driver() == owner, "one part was lost, and all of Ray was replaced"


QUICK = [("gcs_server", hangs), ("driver", hangs)]
"""The losses that only a timeout shows, one inside and one outside the driver; all losses lead to the same restart."""
PARTS = product(("raylet", "gcs_server", "driver"), (dies, hangs))


@pytest.mark.parametrize(
    ("name", "befalls"),
    [pytest.param(*loss, marks=() if loss in QUICK else pytest.mark.soak) for loss in PARTS],
)
def test_a_ray_that_is_lost_is_replaced(
    echoes: Service,
    task: Generation,
    undisturbed: Scores,
    tmp_path: Path,
    name: str,
    befalls: Callable[[int], None],
) -> None:
    """The raylet, the GCS and the owner of Ray cannot be replaced alone: a whole new Ray takes over the socket."""
    driver = echoes.driver()
    victim = driver if name == "driver" else echoes.named(name)
    lives_through(echoes, [(victim, befalls)], tmp_path / "run", task, undisturbed, driver)
