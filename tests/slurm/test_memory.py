"""The memory that a job asks for follows from its checkpoint, which is read without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.inline import Inline
from launcher.backends.ray import Ray
from launcher.engines.echo import Echo
from launcher.engines.megatron import Megatron
from launcher.pipeline.config import Run
from launcher.settings.cluster import Slurm
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from launcher.slurm.memory import per_process_gib
from launcher.slurm.submit import resources_of

TINY = Path(__file__).parents[2] / "launcher" / "assets" / "tiny"
WEIGHTS_GB = 624_768 * 4 / 1024**3
RUN = Run(
    cluster=Slurm(),
    model=Model(path=str(TINY)),
    engine=Megatron(kv_cache_gib=0.5),
    backend=Inline(),
    parallelism=Parallelism(),
    optimizations=Optimizations(dtype=Dtype.fp32),
)


def needed(slurm: Slurm, **other: Any) -> float | None:
    return per_process_gib(replace(RUN, **other), slurm)


def test_a_process_holds_its_weights_twice_while_it_loads_its_cache_and_its_libraries() -> None:
    assert needed(Slurm()) == pytest.approx(2 * WEIGHTS_GB + 0.5 + 1, abs=0.01)
    assert needed(Slurm(gpus_per_node=8)) == pytest.approx(WEIGHTS_GB + 4, abs=0.01)


def test_a_node_has_as_many_of_them_as_there_are_processes_on_it() -> None:
    assert resources_of(RUN, Slurm()).mem_gb == 4
    assert resources_of(replace(RUN, parallelism=Parallelism(tensor=2)), Slurm()).mem_gb == 6
    spread = replace(RUN, parallelism=Parallelism(tensor=2, pipeline=2))
    assert resources_of(spread, Slurm(nodes=2)).mem_gb == 6


@pytest.mark.parametrize(
    ("slurm", "other"),
    [
        (Slurm(mem_gb=5), {}),
        (Slurm(mem_gb_per_node=64, gpus_per_node=8), {}),
        (Slurm(additional_parameters={"mem-per-cpu": "4G"}), {}),
        (Slurm(), {"engine": Echo(), "model": Model()}),
        (Slurm(), {"model": Model(path="/only/on/the/nodes")}),
        (Slurm(), {"backend": Ray()}),
    ],
)
def test_what_is_said_otherwise_or_cannot_be_known_is_left_alone(slurm: Slurm, other: dict[str, Any]) -> None:
    assert needed(slurm, **other) is None
