"""Where a process is follows from the environment that SLURM or torchrun gave it."""

from __future__ import annotations

import pytest

from launcher.allocation import allocate, expand
from launcher.errors import UserError

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


@pytest.mark.parametrize("wrong", [TORCHRUN | {"RANK": "x"}, {k: v for k, v in SLURM.items() if k != "SLURM_JOB_ID"}])
def test_an_environment_that_makes_no_sense_is_said(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="makes no sense"):
        allocate(wrong)
