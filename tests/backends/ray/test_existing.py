"""Runs on an existing Ray of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.ray import Ray
from launcher.core import processes
from launcher.core.errors import UserError
from launcher.core.types import Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism
from tests.backends.ray.ray_nodes import HEAD, OTHER, Nodes, nodes
from tests.backends.ray.ray_service import Service

pytest.importorskip("ray")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
VERSION = """
import json, sys
from ray._raylet import GcsClient

gcs, where = GcsClient(address=sys.argv[1]), (b"CLUSTER_METADATA", b"cluster")
found = json.loads(gcs.internal_kv_get(*where))
before, found["ray_version"] = found["ray_version"], sys.argv[2]
gcs.internal_kv_put(where[0], json.dumps(found).encode(), True, where[1])
print(before)
"""


@pytest.fixture(scope="module")
def theirs() -> Iterator[Nodes]:
    with nodes() as started:
        yield started


@pytest.fixture
def attached(theirs: Nodes, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Return the nodes; this process has what their users have."""
    for name, value in theirs.environment.items():
        monkeypatch.setenv(name, value)
    return theirs


def deployment(folder: Path) -> Deployment:
    return Deployment(Model("m"), Echo(latency_s=0.02), Parallelism(), Optimizations(), folder)


def health(endpoint: Endpoint) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{endpoint.root}/health", timeout=120) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def evaluation(endpoint: Endpoint, folder: Path) -> subprocess.Popen[str]:
    given = ("backend=external", f"backend.url={endpoint.url}", "tasks=[addition]", "evaluate.concurrency=4")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *given, f"hydra.run.dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder.parent,
    )


def scores(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} <= {"scored", "truncated", "unparsed"}, lines
    return {line["id"]: (line["prediction"], line["scores"]) for line in lines}


def evaluated(endpoint: Endpoint, folder: Path, disturb: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return what an evaluation found, in which something happens after twenty samples."""
    process, file = evaluation(endpoint, folder), folder / "samples.jsonl"
    wait_for(lambda: process.poll() is not None or (file.exists() and len(file.read_bytes().splitlines()) >= 20))
    assert process.poll() is None, process.communicate()
    disturb()
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return scores(folder)


def drivers() -> list[int]:
    """Return the drivers that this process has started."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes.children(os.getpid())}
    return [pid for pid, command in commands.items() if b"launcher.backends.ray.driver" in command]


def test_a_run_uses_a_part_of_it_and_leaves_the_rest(attached: Nodes, tmp_path: Path) -> None:
    backend = Ray(address=attached.address, replicas=2, probe_timeout_s=60)
    with backend.serve(deployment(tmp_path), allocate()) as endpoint:
        assert nodes_of(endpoint) == {HEAD, OTHER}
        evaluated(endpoint, tmp_path / "run")
        tokens = Service(endpoint, tmp_path, 2).generated()
        assert min(tokens) > 0.6 * max(tokens)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask_past_the_endpoint(replicas(endpoint)[0]["pid"])
        ours, _ = json.loads(attached.applications())
        assert ours.startswith("launcher-ray-")
    wait_for(lambda: attached.applications() == '["theirs"]')
    assert attached.theirs() == b"theirs"
    assert not drivers()


@pytest.mark.soak
def test_a_driver_and_a_node_may_die(attached: Nodes, tmp_path: Path) -> None:
    backend = Ray(address=attached.address, replicas=2, probe_timeout_s=60)
    with backend.serve(deployment(tmp_path), allocate()) as endpoint:
        first, (before, _), (driver,) = replicas(endpoint), json.loads(attached.applications()), drivers()
        os.kill(driver, signal.SIGKILL)
        wait_for(lambda: live(endpoint) and not {r["pid"] for r in first} & {r["pid"] for r in replicas(endpoint)})
        wait_for(lambda: before not in attached.applications())
        undisturbed = evaluated(endpoint, tmp_path / "undisturbed")

        assert nodes_of(endpoint) == {HEAD, OTHER}

        try:
            disturbed = evaluated(endpoint, tmp_path / "disturbed", lambda: attached.end(OTHER))
            assert disturbed == undisturbed
            wait_for(lambda: live(endpoint) and nodes_of(endpoint) == {HEAD})
            assert [line["reason"] for line in health(endpoint)["lost"]][1:] == ["its process died"]
        finally:
            attached.join(OTHER)
    wait_for(lambda: attached.applications() == '["theirs"]')


def live(endpoint: Endpoint) -> bool:
    try:
        return health(endpoint)["status"] == "live"
    except OSError:
        return False


def replicas(endpoint: Endpoint) -> list[dict[str, Any]]:
    found = health(endpoint)["replicas"]
    assert isinstance(found, list)
    return found


def nodes_of(endpoint: Endpoint) -> set[str]:
    return {replica["node"] for replica in replicas(endpoint)}


def ask_past_the_endpoint(pid: int) -> None:
    """Ask a replica itself, without the run's secret."""
    import psutil

    served = [c.laddr for c in psutil.Process(pid).net_connections("tcp") if c.status == "LISTEN"]
    for address in (a for a in served if a.ip in (HEAD, OTHER, "127.0.0.1")):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(f"http://{address.ip}:{address.port}/v1/models", timeout=10)
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException):
            continue  # Ray's own


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"replicas": 3, "cpus_per_rank": 40.0}, r"3 replicas x 40 CPUs need 120, the Ray at .* has \d"),
        ({"replicas": 1, "cpus_per_rank": 3.0}, r"1 replica of 3 CPUs, each within a node: nodes with .* hold 0"),
    ],
)
def test_resources_are_counted_before_anything_starts(
    attached: Nodes, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with (
        pytest.raises(UserError, match=reason),
        Ray(address=attached.address, **settings).serve(deployment(tmp_path), allocate()),
    ):
        pass


def test_another_version_is_refused(attached: Nodes, tmp_path: Path) -> None:
    before = attached.run(VERSION, "1.2.3").strip()
    refused = pytest.raises(UserError, match=r"backend.address=.*: Version mismatch: .* Ray: 1\.2\.3 ")
    try:
        with refused as told, Ray(address=attached.address).serve(deployment(tmp_path), allocate()):
            pass
    finally:
        attached.run(VERSION, before)
    assert "\n" not in str(told.value)
