"""Where a process is follows from the environment that SLURM or torchrun gave it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation, allocate, expand, quotas

TORCHRUN = {
    **{"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1"},
    **{"MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "a/b", "TORCHELASTIC_RESTART_COUNT": "1"},
}
SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "n[08-09]"},
    **{"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "1"},
}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a[1-3]", ["a1", "a2", "a3"]),
        ("a[08-10,012],b", ["a08", "a09", "a10", "a012", "b"]),
        ("r[1-2]n[3,5]x", ["r1n3x", "r1n5x", "r2n3x", "r2n5x"]),
        ("gpu-01,cpu-[1,2].site", ["gpu-01", "cpu-1.site", "cpu-2.site"]),
    ],
)
def test_slurms_lists_of_nodes(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


def test_torchrun() -> None:
    found = allocate(TORCHRUN | {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert (found.rank, found.world_size, found.local_rank, found.gpus, found.leads) == (3, 4, 1, 2, False)
    assert (found.nodes, found.reach) == (("n1", "node 1"), "n1")
    assert found.name == "torchrun-n1-29500-a_b-1"
    assert allocate(TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}).reach == "127.0.0.1"


def test_a_step_of_slurm() -> None:
    found = allocate(SLURM)
    assert (found.rank, found.world_size, found.local_rank, found.cpus) == (2, 4, 0, 1)
    assert (found.nodes, found.reach, found.name) == (("n08", "n09"), "n09", "slurm-7-0-0")
    assert allocate(SLURM | {"SLURM_RESTART_COUNT": "2"}).name == "slurm-7-0-2"
    assert allocate(SLURM | {"SLURM_PROCID": "0"}).leads


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NODELIST": "n[1-2]"},  # a batch script
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        TORCHRUN | {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "8"},
    ],
)
def test_a_process_is_alone_unless_it_was_started_with_others(environment: dict[str, str]) -> None:
    found = allocate(environment)
    assert (found.rank, found.world_size, found.leads, found.ranks) == (0, 1, True, None)


def test_the_inner_of_two_counts() -> None:
    assert allocate(SLURM | TORCHRUN).name.startswith("torchrun")


@pytest.mark.parametrize(
    "wrong",
    [TORCHRUN | {"RANK": "x"}, {"SLURM_CPUS_ON_NODE": "x"}, {k: v for k, v in SLURM.items() if k != "SLURM_JOB_ID"}],
)
def test_an_environment_that_makes_no_sense_is_said(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="makes no sense"):
        allocate(wrong)


def test_cpus_are_those_that_the_process_is_bound_to_and_that_slurm_grants() -> None:
    here = sorted(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {here[:1]}); "
        "from launcher.distributed.allocation import allocate; print(allocate({}).cpus)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"
    assert allocate({"SLURM_CPUS_ON_NODE": "1"}).cpus == 1
    assert allocate({"SLURM_CPUS_ON_NODE": "1000"}).cpus <= len(here)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_quota_of_a_control_group_and_of_those_around_it(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "fs"
    assert quotas(own, root) == []
    write(own, "0::/pod/container\n")
    write(root / "cpu.max", "max 100000\n")
    write(root / "pod/cpu.max", "350000 100000\n")
    assert quotas(own, root) == [4]
    write(root / "pod/container/cpu.max", "50000 100000\n")
    assert quotas(own, root) == [4, 1]
    write(own, "0::/../other\n")  # as a container sees a group outside of its own
    write(root / "cpu.max", "200000 100000\n")
    assert quotas(own, root) == [2]


def test_the_quota_of_version_1_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "own", "9:memory:/job\n3:cpu,cpuacct:/job\n0::/\n")
    for name, quota in (("", "-1\n"), ("job/", "300000\n")):
        write(tmp_path / "cpu" / name / "cpu.cfs_quota_us", quota)
        write(tmp_path / "cpu" / name / "cpu.cfs_period_us", "100000\n")
    assert quotas(tmp_path / "own", tmp_path) == [3]


@pytest.mark.parametrize(("cpus", "world", "each"), [(4, 1, 4), (4, 2, 2), (4, 4, 1), (2, 4, 1), (7, 2, 3)])
def test_ranks_of_one_host_share_its_cpus(cpus: int, world: int, each: int) -> None:
    assert Allocation(("localhost",), 0, 1, cpus, 0).cpus_of_a_rank(world) == each
