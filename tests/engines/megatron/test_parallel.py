"""A model over several processes gives the answers of one, and dies cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from answers import Answer, answer, request, together
from test_executor import check_logprobs, check_same, mixed_requests
from tiny_models import TINY, placement, running

from launcher.checkpoints.base import Architecture
from launcher.engines.base import Generation
from launcher.engines.megatron.distributed import leader_rank
from launcher.engines.scheduler import Limits
from launcher.errors import EngineUnavailable, ServerError
from launcher.model import Parallelism

LAYOUTS = {
    "tensor2": Parallelism(tensor=2),
    "pipeline2": Parallelism(pipeline=2),
    "tensor2_pipeline2": Parallelism(tensor=2, pipeline=2),
}
LIMITS = Limits(TINY.context_length, prefill_chunk=64)


def followers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "launcher.engines.megatron.follower" in p.cmdline()]


@pytest.fixture(scope="module")
def requests() -> list[Generation]:
    return mixed_requests(12, seed=5)


@pytest.fixture(scope="module")
def expected(requests: Sequence[Generation]) -> list[Answer]:
    with running(placement(), LIMITS) as alone:
        return asyncio.run(together(alone, requests))


@pytest.mark.parametrize(("layout", "leader"), [((1, 1), 0), ((2, 1), 0), ((1, 2), 1), ((2, 2), 2), ((2, 3), 4)])
def test_the_leader_is_the_first_rank_of_the_last_stage(layout: tuple[int, int], leader: int) -> None:
    assert leader_rank(Parallelism(*layout)) == leader


@pytest.mark.parametrize("name", LAYOUTS)
async def test_same_answers_as_one_process(
    name: str, requests: Sequence[Generation], expected: Sequence[Answer]
) -> None:
    with running(placement(parallelism=LAYOUTS[name]), LIMITS) as made:
        assert len(followers()) == LAYOUTS[name].world_size - 1
        found = await together(made, requests)
        check_same(requests, expected, found)
        check_logprobs(made, requests[0], found[0])
    assert followers() == []


async def test_untied_embeddings_with_biases() -> None:
    architecture = replace(TINY, tied=False, bias=True, qkv_bias=True, qk_norm=True)
    some = mixed_requests(4, seed=6)
    with running(placement(architecture), LIMITS) as alone:
        one = await together(alone, some)
    with running(placement(architecture, Parallelism(tensor=2)), LIMITS) as made:
        check_same(some, one, await together(made, some))


EXPERTS = replace(TINY, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=96)


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        (EXPERTS, Parallelism(tensor=2)),
        (EXPERTS, Parallelism(tensor=2, expert=2)),
        (EXPERTS, Parallelism(tensor=2, expert=2, pipeline=2)),
        (replace(EXPERTS, bias=True), Parallelism(tensor=2, expert=2)),
        (replace(EXPERTS, normalize_expert_weights=False, qkv_bias=True), Parallelism(tensor=2)),
    ],
    ids=["slices", "whole experts", "whole experts in stages", "biases", "raw weights"],
)
async def test_experts_over_ranks(architecture: Architecture, layout: Parallelism) -> None:
    some = mixed_requests(6, seed=7)
    with running(placement(architecture), LIMITS) as alone:
        one = await together(alone, some)
        check_logprobs(alone, some[0], one[0])
    with running(placement(architecture, layout), LIMITS) as made:
        found = await together(made, some)
        check_same(some, one, found)
        check_logprobs(made, some[0], found[0])


async def test_a_dead_rank_fails_requests_and_is_named() -> None:
    with running(placement(parallelism=Parallelism(tensor=2))) as made:
        r = request("a", [1], max_tokens=200)
        task = asyncio.create_task(answer(made, r))
        while made.state().generated_tokens == 0:
            await asyncio.sleep(0.01)
        (victim,) = followers()
        victim.send_signal(signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match=r"rank 1|onnection"):
            await asyncio.wait_for(task, 20)
        assert made.state().error
        with pytest.raises(EngineUnavailable):
            await answer(made, request("b", [1]))
    assert followers() == []


async def test_a_rank_that_dies_while_all_are_idle_is_noticed() -> None:
    with running(placement(parallelism=Parallelism(pipeline=2))) as made:
        (victim,) = followers()
        victim.send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while made.state().error is None:
                await asyncio.sleep(0.05)
        assert f"rank 0 (process {victim.pid}) died" in str(made.state().error)


class Unloadable:
    """Weights that only the leader can load."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def load_into(self, model: Any) -> None:
        if os.getpid() != self.pid:
            raise FileNotFoundError("no weights on this host")
        import torch.distributed as dist

        dist.barrier()


def test_a_rank_that_cannot_load_stops_the_start() -> None:
    place = replace(placement(parallelism=Parallelism(tensor=2)), weights=Unloadable())
    with pytest.raises((ServerError, RuntimeError), match=r"no weights on this host|onnection"), running(place):
        pass
    assert followers() == []


def test_ranks_die_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "leader.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = {[str(Path(__file__).parent), str(Path.cwd())]!r}
        from tiny_models import Parallelism, placement, running
        with running(placement(parallelism=Parallelism(tensor=2))):
            print("ready", flush=True)
            time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == "ready\n"
        ranks = psutil.Process(leader.pid).children()
        assert len(ranks) == 1
        leader.kill()
        gone, alive = psutil.wait_procs(ranks, timeout=20)
    assert gone
    assert not alive
