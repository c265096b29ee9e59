"""What needs no Ray: counting, choices that are refused, metrics that are added up, processes that are ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from launcher.allocation import Allocation
from launcher.backends.base import Deployment
from launcher.backends.ray import Ray, home
from launcher.backends.ray.assignment import Patience, Share
from launcher.backends.ray.fleet import Member
from launcher.backends.ray.resources import count
from launcher.backends.ray.rollcall import Caller, RollCall, Voice
from launcher.backends.ray.status import merge
from launcher.engines.echo import Echo
from launcher.errors import UserError
from launcher.model import Model, Optimizations, Parallelism

ROOT = Path(__file__).parents[3]
GPUS = Allocation(("localhost",), 0, 1, cpus=8, gpus=4)


def test_gpus_are_counted_before_anything_starts() -> None:
    on_gpu = {"device": "cuda"}
    assert count(2, 2, GPUS, on_gpu, Share(0, 1), False) == Share(cpus=4, gpus=2)
    with pytest.raises(UserError, match=r"2 replicas x 4 GPUs need 8, this allocation has 4"):
        count(2, 4, GPUS, on_gpu, Share(0, 1), False)
    assert count(2, 4, GPUS, on_gpu, Share(0, 0.5), False).gpus == 2


def test_cpus_are_counted_if_asked_for_and_shared_otherwise() -> None:
    assert count(16, 2, GPUS, {}, Share(0, 1), False) == Share(cpus=0.5, gpus=0)
    with pytest.raises(UserError, match=r"3 replicas x 4 CPUs need 12, this allocation has 8"):
        count(3, 2, GPUS, {}, Share(2, 1), True)


def test_memory_is_counted() -> None:
    facts = {"memory_gb_per_rank": {"weights": 1e6, "kv_cache": 1.0}}
    with pytest.raises(UserError, match=r"backend.replicas=2: .* of memory need 4e\+06 GB"):
        count(2, 2, GPUS, facts, Share(0, 1), False)


@pytest.mark.parametrize(
    ("key", "value"), [("replicas", 0), ("port", 70000), ("probe_timeout_s", 0), ("cpus_per_rank", -1)]
)
def test_a_wrong_value_is_refused_by_name(key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"backend.{key}={value}: accepted is"):
        Ray(**{key: value})


def test_a_plan_says_what_each_replica_gets(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    plan = Ray(replicas=2).plan(deployment, GPUS)
    assert (plan["replicas"], plan["ranks_per_replica"], plan["cpus_per_replica"]) == (2, 1, 4)


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
    (orphan,) = home.members(leader.pid)
    home.end(leader.pid)
    assert not home.members(leader.pid)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_the_private_folder_has_a_token_for_one_and_is_removed() -> None:
    with home.home() as folder:
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o077 == 0
        assert len((folder / "token").read_text()) == 64
    assert not folder.exists()


def test_a_caller_is_heard_until_it_is_gone() -> None:
    heard: list[object] = []
    over = threading.Event()

    def came(caller: Caller) -> None:
        while (message := caller.hear()) is not None:
            heard.append(message)
        over.set()

    calls = RollCall("127.0.0.1", b"key", "what to do", came)  # type: ignore[arg-type]
    calls.start()
    voice = Voice(calls.address, b"key")
    assert voice.assignment == "what to do"
    voice.say({"kind": "state"})
    del voice
    assert over.wait(20)
    assert heard == [{"kind": "state"}]


def state(steps: int, running: int) -> dict[str, int]:
    return {"generated_tokens": steps, "running": running, "steps": steps}


def test_a_silent_or_stuck_replica_is_given_up() -> None:
    patient = Patience(start_s=1, stop_s=1, probe_s=100, stall_s=100)
    member = Member("a", 1, "here", ("127.0.0.1", 1), 1)
    member.says(state(1, 1))
    assert member.problem(patient) is None
    member.heard -= 200
    assert "no sign of life for 100 s" in str(member.problem(patient))
    member.moved -= 200
    member.says(state(1, 1))
    assert "no step for 100 s" in str(member.problem(patient))
    member.says(state(2, 1))
    assert member.problem(patient) is None


def test_an_idle_replica_is_not_stuck() -> None:
    member = Member("a", 1, "here", ("127.0.0.1", 1), 1)
    member.moved -= 200
    member.says(state(1, 0))
    assert member.problem(Patience(1, 1, 100, 100)) is None


def test_the_environment_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from launcher.backends.ray.cluster import environment

    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    made = environment(tmp_path, 2.5)
    assert "RAY_ADDRESS" not in made
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert made["RAY_USAGE_STATS_ENABLED"] == "0"
    assert made["RAY_health_check_timeout_ms"] == "2500"
    assert os.environ["RAY_ADDRESS"] == "somewhere:6379"
