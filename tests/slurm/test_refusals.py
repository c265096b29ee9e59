"""What SLURM refuses or holds back is told with the key that decides it, and with what the cluster has."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.settings.cluster import Resources, Slurm
from launcher.slurm import refusals
from launcher.slurm.queue import JobState

NEEDS = Resources(nodes=1, tasks=1, cpus=4, gpus=0, mem_gb=500.0)
FAILED = "sbatch: error: Batch job submission failed: "
"""The texts are those of SLURM 22.05."""


@pytest.fixture(autouse=True)
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sinfo that prints the format it was asked for, twice."""
    (tmp_path / "sinfo").write_text('#!/bin/sh\necho "<$3>"\necho "<$3>"\n')
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("said", "settings", "told"),
    [
        (
            f"sbatch: error: invalid partition specified: gpu\n{FAILED}Invalid partition name specified",
            {"partition": "gpu"},
            "invalid partition specified: gpu: Invalid partition name specified; cluster.partition=gpu; "
            "the cluster has partitions <%R>",
        ),
        (
            f"{FAILED}Invalid account or account/partition combination specified",
            {"account": "me"},
            f"Invalid account or account/partition combination specified; cluster.account=me; "
            f"this lists yours: {refusals.ACCOUNTS}",
        ),
        (f"{FAILED}Invalid qos specification", {"qos": "high"}, "cluster.qos=high; this lists yours"),
        (
            f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not "
            "available",
            {},
            "cluster.mem_gb=500.0; the cluster has nodes with <%m MB>",
        ),
        ("sbatch: error: Invalid generic resource (gres) specification", {"gpus_per_node": 8}, "gpus_per_node=8; "),
        (f"{FAILED}Invalid feature specification", {"constraint": "a100"}, "constraint=a100; the cluster has features"),
        (
            f"{FAILED}Invalid node name specified",
            {"additional_parameters": {"nodelist": "node7"}},
            "cluster.additional_parameters={'nodelist': 'node7'}; the cluster has nodes <%n>",
        ),
        (
            f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
            {"timeout_min": 9000},
            "cluster.timeout_min=9000; the cluster has time limits <%P %l>",
        ),
        (f"{FAILED}Requested node configuration is not available", {}, "cluster.cpus_per_task=4, cluster.mem_gb=500.0"),
        (f"{FAILED}Socket timed out on send/recv operation", {}, "Socket timed out on send/recv operation"),
        ("", {}, "no reason given"),
    ],
)
def test_a_refusal_names_the_key_its_value_and_what_there_is(said: str, settings: dict[str, object], told: str) -> None:
    line = refusals.explained(said, Slurm(**settings), NEEDS)  # type: ignore[arg-type]
    assert told in line
    assert "\n" not in line
    assert "submission failed" not in line


def test_only_what_waiting_does_not_bring_is_explained() -> None:
    told = refusals.hint(JobState("PENDING", "PartitionConfig"))
    assert told.startswith("no node of the partition is that large; it depends on cluster.cpus_per_process, cluster.")
    assert told.endswith("the cluster has nodes with <%c CPUs, %m MB>")
    assert "node" in refusals.hint(JobState("PENDING", "ReqNodeNotAvail, UnavailableNodes:node1"))
    for state in (JobState("PENDING", "Resources"), JobState("PENDING", "Priority"), JobState("RUNNING")):
        assert not refusals.hint(state)


def test_without_sinfo_the_key_is_still_named(tmp_path: Path) -> None:
    (tmp_path / "sinfo").unlink()
    line = refusals.explained(f"{FAILED}Invalid feature specification", Slurm(constraint="a100"), NEEDS)
    assert line == "Invalid feature specification; cluster.constraint=a100"
