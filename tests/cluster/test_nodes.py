"""One model over two nodes of a real SLURM, in one job: it scores as here, and ends as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.test_slurm import (
    Environment,
    left_behind,
    local,
    results,
    submit,
)

pytest.importorskip("megatron.core")
FEW = ("tasks=[addition,capitals]", "evaluate.limit=6")
SPREAD = ("cluster.nodes=2", "parallelism.tensor=2", "parallelism.pipeline=2")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytriton", "inline"])
def test_a_model_over_two_nodes_scores_as_here(two_nodes: Environment, tmp_path: Path, backend: str) -> None:
    folder = tmp_path / "job"
    done = submit(two_nodes, folder, *FEW, *SPREAD, f"backend={backend}")
    assert done.returncode == 0, done.stderr
    assert results(folder)["tasks"] == local(tmp_path / "here", *FEW)["tasks"]
    assert results(folder)["engine"]["world_size"] == 4
    assert not left_behind(folder)
