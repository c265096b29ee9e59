"""One model over two nodes of a real SLURM, in one job: it scores as here, and ends as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.test_slurm import (
    Environment,
    follow,
    left_behind,
    local,
    results,
)

pytest.importorskip("megatron.core")
FEW = ("tasks=[addition,capitals]", "evaluate.limit=6")
SPREAD = ("cluster.nodes=2", "parallelism.tensor=2", "parallelism.pipeline=2")
STAGES = ("cluster.nodes=2", "parallelism.pipeline=2", "cluster.requeues=0")
LONG = ("tasks=[addition]", "evaluate.concurrency=1", "validate.skip=[greedy repeats]")
LONGER = "tasks.addition.repeats=50"


@pytest.mark.slow
def test_a_model_over_two_nodes_behind_triton_scores_as_here(two_nodes: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    process = follow(two_nodes, folder, *FEW, *SPREAD, "backend=pytriton")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert results(folder)["tasks"] == local(tmp_path / "here", *FEW)["tasks"]
    assert results(folder)["engine"]["world_size"] == 4
    assert results(folder)["endpoint"]["backend"] == "pytriton"
    assert not left_behind(folder)
