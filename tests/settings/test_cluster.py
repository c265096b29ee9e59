"""What a job asks for follows from the model's processes and the node's shape; ``mode=plan`` shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.settings.cluster import Resources, Slurm, Spread, resources
from launcher.settings.model import Parallelism
from tests.running import launch_here

ROOT = Path(__file__).parents[2]

NODE = Slurm(gpus_per_node=8, cpus_per_node=112, mem_gb_per_node=2048.0)


@pytest.mark.parametrize(
    ("slurm", "parallelism", "replicas", "expected"),
    [
        (Slurm(), Parallelism(), 1, Resources(1, 0)),
        (Slurm(cpus_per_process=3), Parallelism(tensor=2), 1, Resources(6, 0)),
        (Slurm(gpus_per_node=8, cpus_per_process=2), Parallelism(tensor=2, pipeline=2), 2, Resources(16, 8)),
        (NODE, Parallelism(), 1, Resources(14, 1, mem_gb=256.0)),
        (NODE, Parallelism(tensor=4), 2, Resources(112, 8, mem_gb=2048.0)),
        (replace(NODE, cpus_per_task=3, mem_gb=5.0), Parallelism(tensor=4), 1, Resources(3, 4, mem_gb=5.0)),
    ],
)
def test_resources_follow_from_the_processes(
    slurm: Slurm, parallelism: Parallelism, replicas: int, expected: Resources
) -> None:
    assert resources(slurm, parallelism, replicas) == expected


@pytest.mark.parametrize(
    ("slurm", "parallelism", "words"),
    [
        (Slurm(gpus_per_node=2), Parallelism(tensor=4), "cluster.gpus_per_node=2"),
        (Slurm(nodes=2), Parallelism(tensor=2), "cluster.nodes=2"),
        (Slurm(nodes=2, gpus_per_node=1), Parallelism(tensor=2, pipeline=2), "cluster.gpus_per_node=1"),
    ],
)
def test_what_the_nodes_cannot_give_is_refused(slurm: Slurm, parallelism: Parallelism, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resources(slurm, parallelism, 1, Spread.model)


def test_a_model_over_nodes_has_a_task_for_each_process() -> None:
    slurm = Slurm(nodes=2, gpus_per_node=8, cpus_per_process=3)
    assert resources(slurm, Parallelism(tensor=4, pipeline=2), 1, Spread.model) == Resources(3, 4, nodes=2, tasks=4)
    shared = resources(replace(NODE, nodes=2), Parallelism(tensor=4, pipeline=2), 1, Spread.model)
    assert shared == Resources(14, 4, nodes=2, tasks=4, mem_gb=1024.0)
    with pytest.raises(UserError, match="serves within one node"):
        resources(slurm, Parallelism(tensor=4, pipeline=2), 1)


def test_a_number_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"cluster\.timeout_min is 0; must be at least 1"):
        Slurm(timeout_min=0)
    with pytest.raises(UserError, match=r"cluster\.cpus_per_node=64: .* cluster\.gpus_per_node"):
        Slurm(cpus_per_node=64)


def plan(folder: Path, *arguments: str) -> str:
    done = launch_here(folder, *arguments, "cluster=slurm", "mode=plan")
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


def test_the_plan_is_the_sbatch_file(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    given = ("cluster.partition=gpu", "cluster.gpus_per_node=8", "cluster.mem_gb=1.5", "cluster.account=me")
    text = plan(tmp_path, *given, "cluster.setup=['module load cuda']", "+cluster.additional_parameters.comment=hello")
    for line in (
        *("#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --mem=1536MB", "#SBATCH --account=me"),
        *("#SBATCH --time=60", "#SBATCH --signal=USR2@120", "#SBATCH --requeue", "#SBATCH --comment=hello"),
        "module load cuda",
    ):
        assert line in text.splitlines()


def test_each_point_of_a_sweep_asks_for_its_own_size(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    text = plan(tmp_path, "-m", "cluster.gpus_per_node=8", "parallelism=single,tensor2,tensor2_pipeline2")
    assert [line.split("=")[1] for line in text.splitlines() if "--gpus-per-node=" in line] == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mode=status"], "run=<run folder>"),
        (["mode=cancel", "run=nowhere"], "no job was submitted"),
        (["mode=status", "run=nowhere", "engine=echo"], "engine=echo"),
    ],
)
def test_asking_about_no_job_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr


def test_replicas_over_nodes_have_a_task_for_each_node() -> None:
    slurm = Slurm(nodes=2, gpus_per_node=8, cpus_per_process=3)
    wide = Parallelism(tensor=2)
    assert resources(slurm, wide, 4, Spread.replicas) == Resources(12, 4, nodes=2, tasks=1)
    assert resources(slurm, wide, 3, Spread.replicas) == Resources(12, 4, nodes=2, tasks=1)
    with pytest.raises(UserError, match="10 processes on a node need as many GPUs"):
        resources(slurm, wide, 9, Spread.replicas)
    with pytest.raises(UserError, match=r"backend.replicas=1 leaves nodes empty"):
        resources(slurm, wide, 1, Spread.replicas)
