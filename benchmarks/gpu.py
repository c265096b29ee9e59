"""Measure the Megatron engine on a GPU, with and without CUDA graphs, flash decode and flash attention.

    python benchmarks/gpu.py                         a Llama of 1.2 billion parameters with random weights
    python benchmarks/gpu.py --model <checkpoint>    a Megatron, NeMo or Hugging Face checkpoint with rotary positions

The sides run in turn, ``--repeats`` times after a warm-up. The benchmark prints medians, and their ratio to the side
without optimizations. All sides are loaded at once, each with its own weights and cache. Without a GPU it says so and
does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from engine import Outcome, Work, alternate, median, mixed_work, percentiles, run_engine, running

from launcher.checkpoints import detect
from launcher.checkpoints.base import Architecture
from launcher.core.types import resolve
from launcher.distributed.allocation import allocate
from launcher.engines.megatron import distributed
from launcher.engines.megatron.layout import obstacles
from launcher.engines.megatron.worker_config import CheckpointWeights, Weights, WorkerConfig
from launcher.engines.runtime import flash
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Bounds, Dtype, Parallelism

BATCH = SchedulerConfig.max_sequences
CONTEXT = 2048

LLAMA = Architecture(
    num_layers=16,
    hidden_size=2048,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=64,
    ffn_hidden_size=8192,
    vocab_size=128_256,
    context_length=CONTEXT,
    rotary_base=500_000,
)

PLAIN = "plain"

SIDES = {
    PLAIN: (False, False),
    "cuda_graphs": (True, False),
    "flash_decode": (False, True),
    "cuda_graphs and flash_decode": (True, True),
}
"""Whether decode steps are captured, and whether flash-attn computes them."""


@dataclass(frozen=True)
class Drawn:
    """Random weights: the speed of a model does not depend on them."""

    def load_into(self, model: Any) -> None:
        import torch

        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.02) if parameter.dim() > 1 else parameter.fill_(1)


def worker_config(architecture: Architecture, weights: Weights, graphs: bool, flash_decode: bool) -> WorkerConfig:
    block_size = flash.PAGE_MULTIPLE if flash_decode else 16
    num_blocks = BATCH * -(-CONTEXT // block_size) + 1
    return WorkerConfig(
        architecture=architecture,
        weights=weights,
        parallelism=Parallelism(),
        dtype=Dtype.bf16,
        device="cuda",
        num_blocks=num_blocks,
        block_size=block_size,
        threads=1,
        flash_attention=True,
        flash_decode=flash_decode,
        graphs=Buckets.of(BATCH, CONTEXT, block_size, num_blocks, full_width=flash_decode) if graphs else None,
    )


def unfit(architecture: Architecture, graphs: bool, flash_decode: bool) -> str:
    """Return why a side cannot be measured; empty if it can."""
    found = obstacles(architecture)
    reasons = [found.get("cuda_graphs", "") if graphs else "", found.get("flash_decode", "") if flash_decode else ""]
    if flash_decode and not flash.installed():
        reasons.append("the package flash-attn is not installed")
    return "; ".join(r for r in reasons if r)


def told(name: str, why: str) -> bool:
    """Print the skipped sides, with the reason."""
    print(f"left out: {name}: {why}")
    return False


def works() -> dict[str, list[Work]]:
    rng = random.Random(0)

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(256) for _ in range(length))

    return {
        "one sequence, 256 tokens": [Work(prompt(64), 256)],
        f"{BATCH} sequences of 64 + 256 tokens": [Work(prompt(64), 256) for _ in range(BATCH)],
        f"{BATCH} sequences of 1,500 + 64 tokens": [Work(prompt(1500), 64) for _ in range(BATCH)],
        "64 requests, prompts 16-256, outputs 8-128": mixed_work(64, None),
    }


def compare(sides: Mapping[str, Callable[[], Outcome]], repeats: int) -> None:
    """Run sides in turn, and print the median of each and its ratio to the first."""
    found = dict(zip(sides, alternate(repeats, *sides.values()), strict=True))
    first = median(next(iter(found.values())))
    for name, outcomes in found.items():
        between = percentiles(outcomes[-1].between) if outcomes[-1].between else ""
        print(f"  {name:30s} {median(outcomes):9.0f} tokens/s   ratio {median(outcomes) / first:5.2f}   {between}")


def runs(engines: Mapping[str, BatchedAsyncEngine], work: Sequence[Work]) -> dict[str, Callable[[], Outcome]]:
    return {name: lambda e=engine: asyncio.run(run_engine(e, work)) for name, engine in engines.items()}


def decoding(engines: Mapping[str, BatchedAsyncEngine], repeats: int) -> None:
    for name, work in works().items():
        print(name)
        compare(runs(engines, work), repeats)
    for name, engine in engines.items():
        if "cuda_graphs" in engine.describe():
            print(f"captured by {name}: {engine.describe()['cuda_graphs']}")


def prefill(engine: BatchedAsyncEngine, repeats: int) -> None:
    """Compare torch's flash kernel with its others, on prompts of one chunk each."""
    import torch

    from launcher.engines.runtime.paged import allow_flash

    work = [Work(tuple(range(256)) * 7, 1)] * 16

    def side(allowed: bool) -> Outcome:
        allow_flash(allowed, torch.device("cuda"))
        outcome = asyncio.run(run_engine(engine, work))
        # What is fast here is reading prompts, not the one token of each.
        return replace(outcome, tokens=sum(len(w.prompt) for w in work))

    print("16 prompts of 1,792 tokens: prompt tokens per second")
    compare({"without flash_attention": lambda: side(False), "flash_attention": lambda: side(True)}, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; random weights without")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not allocate().gpus:
        print("gpu: no NVIDIA GPU was found; nothing was measured")
        return
    distributed.import_quietly()
    architecture: Architecture = LLAMA
    weights: Weights = Drawn()
    if options.model:
        checkpoint = detect(resolve(options.model))
        architecture, weights = (
            replace(checkpoint.architecture, context_length=CONTEXT),
            CheckpointWeights(checkpoint.path, Bounds()),
        )
    sides = {name: side for name, side in SIDES.items() if not (why := unfit(architecture, *side)) or told(name, why)}
    with ExitStack() as stack:
        limits = SchedulerConfig(CONTEXT, BATCH, max_queue=100_000, prefill_chunk=CONTEXT, prefix_caching=False)
        engines = {
            name: stack.enter_context(running(worker_config(architecture, weights, *side), limits))
            for name, side in sides.items()
        }
        decoding(engines, options.repeats)
        prefill(engines[PLAIN], options.repeats)


if __name__ == "__main__":
    main()
