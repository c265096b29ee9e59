"""Two replicas of two ranks each, of which something is killed while an evaluation runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.allocation import allocate
from launcher.backends.base import Deployment
from launcher.backends.ray import Ray, home
from launcher.core import Endpoint
from launcher.model import Model, Optimizations, Parallelism

pytest.importorskip("ray")
pytest.importorskip("megatron.core")
pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[3]
TINY = "package:launcher/assets/tiny"


def health(endpoint: Endpoint) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{endpoint.root}/health", timeout=120) as answer:
        loaded = json.load(answer)
    assert isinstance(loaded, dict)
    return loaded


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def whole(endpoint: Endpoint) -> bool:
    try:
        return health(endpoint)["status"] == "live"
    except OSError:
        return False


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    from launcher.engines.megatron import Megatron

    folder = tmp_path_factory.mktemp("fleet")
    deployment = Deployment(Model("tiny", TINY), Megatron(), Parallelism(tensor=2), Optimizations(), folder)
    with Ray(replicas=2, probe_timeout_s=8, stall_timeout_s=10).serve(deployment, allocate()) as endpoint:
        yield endpoint


Scores = dict[tuple[str, str], Any]


def scores(folder: Path) -> Scores:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} <= {"scored", "truncated"}, [x for x in lines if x["status"] == "failed"]
    return {(line["task"], line["id"]): (line["prediction"], line["scores"]) for line in lines}


def evaluation(endpoint: Endpoint, folder: Path) -> subprocess.Popen[str]:
    """Start an evaluation of 120 samples, from another process."""
    given = ("backend=external", f"backend.url={endpoint.url}", "tasks=[addition]", "evaluate.concurrency=2")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *given, f"hydra.run.dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder.parent,
    )


def asked(folder: Path) -> int:
    file = folder / "samples.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(fleet: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    wait_for(lambda: whole(fleet))
    process = evaluation(fleet, folder)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return scores(folder)


def replica(endpoint: Endpoint) -> int:
    pid = health(endpoint)["replicas"][0]["pid"]
    assert isinstance(pid, int)
    return pid


def follower(endpoint: Endpoint) -> int:
    """Return a rank that is not the leader of its replica."""
    (found,) = [p for p in psutil.Process(replica(endpoint)).children() if "follower" in " ".join(p.cmdline())]
    return found.pid


def named(name: str) -> Callable[[Endpoint], int]:
    """Return the process of this name among those of one Ray."""

    def find(endpoint: Endpoint) -> int:
        return next(pid for pid in home.members(os.getsid(replica(endpoint))) if home.name(pid) == name)

    return find


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        pytest.param(follower, signal.SIGKILL, id="a rank dies"),
        pytest.param(follower, signal.SIGSTOP, id="a rank hangs"),
        pytest.param(replica, signal.SIGKILL, id="a replica dies"),
        pytest.param(replica, signal.SIGSTOP, id="a replica hangs"),
        pytest.param(named("haproxy"), signal.SIGKILL, id="the proxy dies"),
        pytest.param(named("raylet"), signal.SIGKILL, id="the raylet dies"),
    ],
)
def test_an_evaluation_loses_nothing(
    fleet: Endpoint, undisturbed: Scores, tmp_path: Path, victim: Callable[[Endpoint], int], number: signal.Signals
) -> None:
    wait_for(lambda: whole(fleet))
    pid, folder = victim(fleet), tmp_path / "run"
    process = evaluation(fleet, folder)
    wait_for(lambda: asked(folder) >= 20 or process.poll() is not None)
    assert process.poll() is None
    os.kill(pid, number)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert scores(folder) == undisturbed
    wait_for(lambda: gone(pid) and whole(fleet))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
