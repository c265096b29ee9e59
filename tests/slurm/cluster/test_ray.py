"""Replicas over two nodes in one job: their scores are those of a local run, and their Ray leaves no process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.slurm.cluster.jobs import Environment, following, job_of, left_behind, local, results, state

pytest.importorskip("ray")
GIVEN = ("engine=echo", "model=none", "tasks=[addition,capitals]", "evaluate.limit=20")
OVER_NODES = ("backend=ray", "backend.replicas=2", "backend.probe_timeout_s=60", "cluster.nodes=2")


def rays(folder: Path) -> list[str]:
    """Return what the processes of this job's Ray are called; their environment names its folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"LAUNCHER_RUN={folder}" in file.read_bytes().decode(errors="replace"):
                found.append((file.parent / "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_replicas_over_two_nodes_score_as_here(slurm: Environment, tmp_path: Path) -> None:
    folder, mark = tmp_path / "job", f"LAUNCHER_RUN={tmp_path / 'job'}"
    with following(slurm | dict([mark.split("=")]), folder, *GIVEN, *OVER_NODES) as process:
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert results(folder)["tasks"] == local(tmp_path / "here", *GIVEN)["tasks"]
    seen = [json.loads(line)["health"] for line in (folder / "health.jsonl").read_text().splitlines()]
    nodes = {replica["node"] for replica in seen[0]["replicas"]}
    assert len(nodes) == 2
    assert not any(node.startswith("127.") for node in nodes)
    assert state(slurm, job_of(folder)) == "COMPLETED"
    assert not left_behind(folder)
    assert not rays(folder)
