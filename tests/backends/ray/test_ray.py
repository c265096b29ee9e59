"""Parts that need no Ray: counting resources, checking settings, adding up metrics, ending processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.merged_metrics import merge
from launcher.backends.ray import Ray, session_dir
from launcher.backends.ray.driver_config import ResourceRequest, ResourceShare, Scale, Timeouts
from launcher.backends.ray.heartbeat import HeartbeatClient, HeartbeatServer, ReplicaConnection
from launcher.backends.ray.registry import ReplicaInfo
from launcher.backends.ray.resources import Node, available_gib, check_memory, count, replicas_per_node
from launcher.backends.ray.scaler import Scaler
from launcher.backends.ray.shared_secret import HEADER, SharedSecret
from launcher.core import processes
from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.engines.megatron import Megatron
from launcher.settings.model import Model, Optimizations, Parallelism
from tests.backends.ray.ray_service import alive

ROOT = Path(__file__).parents[3]
GPUS = Allocation(("localhost",), 0, 1, cpus=8, gpus=4)
HERE = [Node(8, 4)]


def test_gpus_are_counted_before_anything_starts() -> None:
    on_gpu = {"device": "cuda"}
    assert count(ResourceRequest(2, 2, None, 1), HERE, on_gpu) == ResourceShare(cpus=4, gpus=2)
    with pytest.raises(UserError, match=r"2 replicas x 4 GPUs need 8, this allocation has 4"):
        count(ResourceRequest(2, 4, None, 1), HERE, on_gpu)
    assert count(ResourceRequest(2, 4, None, 0.5), HERE, on_gpu).gpus == 2


def test_a_replica_needs_its_gpus_on_one_node() -> None:
    on_gpu = {"device": "cuda"}
    assert count(ResourceRequest(3, 2, None, 1), [Node(8, 4), Node(8, 4)], on_gpu) == ResourceShare(cpus=4, gpus=2)
    with pytest.raises(UserError, match=r"2 replicas of 4 GPUs, each within a node: nodes with 3, 5 hold 1"):
        count(ResourceRequest(2, 4, None, 1), [Node(8, 3), Node(8, 5)], on_gpu)
    with pytest.raises(UserError, match=r"2 replicas x 4 GPUs need 8, this cluster has 4"):
        count(ResourceRequest(2, 4, None, 1), [Node(8, 2), Node(8, 2)], on_gpu, "this cluster")


def test_replicas_are_even_over_nodes() -> None:
    assert replicas_per_node(5, 2) == (3, 2)
    assert replicas_per_node(1, 1) == (1,)


def test_there_is_one_process_on_each_node(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    assert Ray(replicas=4).plan(deployment, Allocation(("a", "b"), 0, 2, cpus=8, gpus=0))["cpus_per_replica"] == 4
    with pytest.raises(UserError, match="4 processes were started together on 2 nodes; expected one on each"):
        Ray(replicas=4).plan(deployment, Allocation(("a", "b"), 0, 4, cpus=8, gpus=0))


def test_cpus_are_counted_if_asked_for_and_shared_otherwise() -> None:
    assert count(ResourceRequest(16, 2, None, 1), HERE, {}) == ResourceShare(cpus=0.5, gpus=0)
    with pytest.raises(UserError, match=r"3 replicas x 4 CPUs need 12, this allocation has 8"):
        count(ResourceRequest(3, 2, 2, 1), HERE, {})


def test_memory_is_counted() -> None:
    facts = {"memory_gib_per_rank": {"weights": 0.75, "kv_cache": 0.25}}
    check_memory(ResourceRequest(2, 2, None, 1), facts, 4.0)
    with pytest.raises(UserError, match=r"backend.replicas=2: 2 replicas x 2 GiB of memory need 4 GiB.* has 3.99 GiB"):
        check_memory(ResourceRequest(2, 2, None, 1), facts, 3.99)
    check_memory(ResourceRequest(2, 2, None, 1), facts | {"device": "cuda"}, 3.99)


def test_a_plan_and_the_machine_count_memory_in_one_unit(tmp_path: Path) -> None:
    """A model that needs 1 % less than the free memory fits, and one that needs 1 % more does not."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8388608 kB\nMemAvailable:   1048576 kB\n")
    assert available_gib(meminfo) == 1.0
    model, host = Model(path="package:launcher/assets/tiny"), Allocation(("a",), 0, 1, cpus=1, gpus=0)

    def plan(kv_cache_gib: float) -> Mapping[str, Any]:
        engine = Megatron(kv_cache_gib=kv_cache_gib)
        return engine.plan(Deployment(model, engine, Parallelism(), Optimizations(), tmp_path), host)

    weights = plan(0.5)["memory_gib_per_rank"]["weights"]
    check_memory(ResourceRequest(1, 1, None, 1), plan(0.99 - weights), available_gib(meminfo))
    with pytest.raises(UserError, match="this machine has 1 GiB free"):
        check_memory(ResourceRequest(1, 1, None, 1), plan(1.01 - weights), available_gib(meminfo))


def test_memory_that_is_unknown_is_not_checked(tmp_path: Path) -> None:
    assert available_gib(tmp_path / "meminfo") is None
    check_memory(ResourceRequest(9, 9, None, 1), {"memory_gib_per_rank": {"weights": 1e6}}, None)


def test_a_ray_that_is_not_there_is_refused() -> None:
    from launcher.backends.ray.existing import resolved

    with pytest.raises(UserError, match=r"backend.address=127.0.0.2:1: nothing answers at 127.0.0.2:1: .*refused"):
        resolved("127.0.0.2:1")
    with pytest.raises(UserError, match=r"backend.address=nowhere: Invalid address"):
        resolved("nowhere")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("replicas", 0),
        ("port", 70000),
        ("probe_timeout_s", 0),
        ("cpus_per_rank", -1),
        ("target_requests", 0),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: int | str) -> None:
    with pytest.raises(UserError, match=f"backend.{key} is {value}; must be"):
        Ray(**{key: value})  # type: ignore[arg-type]


def test_replicas_are_a_number_or_auto() -> None:
    with pytest.raises(UserError, match=r"backend\.replicas=many: must be a number from 1 to 1000, or auto"):
        Ray(replicas="many")


def test_a_plan_says_what_each_replica_gets(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    plan = Ray(replicas=2).plan(deployment, GPUS)
    assert (plan["replicas"], plan["ranks_per_replica"], plan["cpus_per_replica"]) == (2, 1, 4)


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(UserError, match=r"backend.min_replicas is 5; must be at most backend.max_replicas=4"):
        Ray(replicas="auto", min_replicas=5)


def test_resources_must_suffice_for_the_most_replicas(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    assert Ray(replicas="auto", max_replicas=8).plan(deployment, GPUS)["cpus_per_replica"] == 1
    with pytest.raises(UserError, match=r"9 replicas x 1 CPUs need 9, this allocation has 8"):
        Ray(replicas="auto", max_replicas=9, cpus_per_rank=1).plan(deployment, GPUS)


def test_the_number_of_replicas_follows_the_load_but_no_burst() -> None:
    scaler = Scaler(Scale(minimum=1, maximum=3, target=4, up_s=2, down_s=10))
    assert not scaler.see(100, now=0)  # only now
    assert not scaler.see(3, now=1)
    assert not scaler.see(100, now=2)
    assert not scaler.see(100, now=3)  # a pause a moment ago
    assert scaler.see(7, now=4) is True
    assert scaler.wanted == 2, "as many as were needed all the time"
    assert scaler.see(100, now=6.5)
    assert scaler.wanted == 3, "not more than the bound"
    for second in range(7, 16):
        assert not scaler.see(0, now=second)
    assert scaler.see(5, now=17)
    assert scaler.wanted == 2, "as many as were needed at any time"
    assert [(d["requests"], d["replicas"]) for d in scaler.decisions] == [(7, 2), (100, 3), (5, 2)]


async def test_a_replica_answers_only_to_the_endpoint() -> None:
    import httpx
    from starlette.responses import PlainTextResponse

    gate = SharedSecret(PlainTextResponse("yes"), "the secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://replica") as client:
        for wrong in ({}, {HEADER: "guess"}, {HEADER: ""}):
            assert (await client.get("/health", headers=wrong)).status_code == 403
        assert (await client.get("/health", headers={HEADER: "the secret"})).text == "yes"


def test_importing_the_backend_loads_no_ray() -> None:
    code = "import sys, launcher.backends.ray; assert not {'ray', 'fastapi', 'aiohttp', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_metrics_are_added_up_sample_by_sample() -> None:
    text = (
        "# HELP a_total Things\n# TYPE a_total counter\n"
        'a_total{{path="x"}} {n}\na_total{{path="y"}} 1\n'
        "# TYPE a_created gauge\na_created 17\n"
    )
    merged = merge([text.format(n=2), text.format(n=5)]).decode()
    assert 'a_total{path="x"} 7.0' in merged
    assert 'a_total{path="y"} 2.0' in merged
    assert "created" not in merged


def test_a_session_is_ended_with_what_it_orphaned() -> None:
    code = (
        "import subprocess as s, sys; s.Popen(['sleep', '600'], process_group=0); print(flush=True); sys.stdin.read()"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        leader.kill()
    (orphan,) = processes.in_session(leader.pid)
    processes.kill_session(leader.pid)
    assert not processes.in_session(leader.pid)
    assert not alive(orphan)


def test_the_private_folder_has_a_token_for_one_and_is_removed() -> None:
    with session_dir.create("secret") as folder:
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "token").read_text() == "secret"
    assert not folder.exists()


def test_a_caller_is_heard_until_it_is_gone() -> None:
    last_heartbeat: list[object] = []
    over = threading.Event()

    def on_connect(caller: ReplicaConnection) -> None:
        while (message := caller.receive()) is not None:
            last_heartbeat.append(message)
        over.set()

    calls = HeartbeatServer("127.0.0.1", b"key", "what to do", on_connect)  # type: ignore[arg-type]
    calls.start()
    heartbeat = HeartbeatClient(calls.address, b"key")
    assert heartbeat.config == "what to do"
    heartbeat.send({"kind": "state"})
    del heartbeat
    assert over.wait(20)
    assert last_heartbeat == [{"kind": "state"}]


def state(steps: int, running: int) -> dict[str, int]:
    return {"generated_tokens": steps, "running": running, "steps": steps}


def test_a_silent_or_stuck_replica_is_given_up() -> None:
    patient = Timeouts(start_s=1, stop_s=1, probe_s=100, stall_s=100)
    replica = ReplicaInfo("a", 1, "here", "n", ("127.0.0.1", 1), 1)
    replica.update(state(1, 1))
    assert replica.problem(patient) is None
    replica.silence.seconds = 200
    assert "no heartbeat for 100 s" in str(replica.problem(patient))
    replica.stall.seconds = 200
    replica.update(state(1, 1))
    assert "no step for 100 s" in str(replica.problem(patient))
    replica.update(state(2, 1))
    assert replica.problem(patient) is None


def test_an_idle_replica_is_not_stuck() -> None:
    replica = ReplicaInfo("a", 1, "here", "n", ("127.0.0.1", 1), 1)
    replica.stall.seconds = 200
    replica.update(state(1, 0))
    assert replica.problem(Timeouts(1, 1, 100, 100)) is None


def test_the_environment_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from launcher.backends.ray.cluster import environment

    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    made = environment(tmp_path, 2.5, nodes=1)
    assert "RAY_ADDRESS" not in made
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert made["RAY_USAGE_STATS_ENABLED"] == "0"
    assert made["RAY_health_check_timeout_ms"] == "2500"
    assert os.environ["RAY_ADDRESS"] == "somewhere:6379"
