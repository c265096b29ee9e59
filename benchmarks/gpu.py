"""Measure the Megatron engine on a GPU, with and without its optimizations, beside transformers and vLLM.

    python benchmarks/gpu.py               a Llama of 1.2 billion parameters with random weights
    python benchmarks/gpu.py --rehearse    the same with a tiny one on a CPU

The sides run in turn, ``--repeats`` times after a warm-up. The benchmark prints medians, and their ratio to the side
without optimizations. All sides are loaded at once, each with its own weights and cache; transformers generates in
static batches. A side that cannot run is left out, with the reason. Without a GPU nothing is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import Outcome, Work, alternate, median, mixed_work, percentiles, run_engine, run_transformers, running

from launcher.checkpoints import detect
from launcher.core.types import resolve
from launcher.distributed.allocation import allocate
from launcher.engines.megatron import distributed
from launcher.engines.megatron.layout import obstacles
from launcher.engines.megatron.worker_config import CheckpointWeights, WorkerConfig
from launcher.engines.runtime import decode_kernels
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.dtypes import torch_dtype
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Bounds, Dtype, Parallelism

BATCH = SchedulerConfig.max_sequences
CONTEXT = 2048

LLAMA = {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128_256,
    "max_position_embeddings": CONTEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}
"""The shape of Llama 3.2 1B, with an output layer of its own."""
TINY = LLAMA | {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"head_dim": 32, "intermediate_size": 128, "vocab_size": 256}

PLAIN = "plain"
SIDES = {
    PLAIN: (False, False),
    "cuda_graphs": (True, False),
    "flash_decode": (False, True),
    "cuda_graphs and flash_decode": (True, True),
}
"""Whether decode steps are captured, and whether a kernel over the pages computes them."""

VLLM = {
    "cuda": {"dtype": "bfloat16", "gpu_memory_utilization": 0.3},
    "cpu": {"dtype": "float32", "kv_cache_memory_bytes": 1 << 28, "enforce_eager": True},
}

Side = Callable[[Sequence[Work]], Outcome]


@dataclass(frozen=True)
class Measured:
    """The model and where it runs; ``scale`` divides the work of a rehearsal."""

    folder: Path
    device: str
    dtype: Dtype
    scale: int

    def works(self) -> dict[str, list[Work]]:
        batch, half, quarter = BATCH // self.scale, 256 // self.scale, 64 // self.scale
        long = 1500 // self.scale
        return {
            f"one sequence, {half} tokens": [_work(0, quarter, half)],
            f"{batch} sequences of {quarter} + {half} tokens": [_work(i, quarter, half) for i in range(batch)],
            f"{batch} sequences of {long} + {quarter} tokens": [_work(i, long, quarter) for i in range(batch)],
            f"{batch} requests, prompts 16-256, outputs 8-128": mixed_work(batch, None),
        }


def _work(seed: int, prompt: int, output: int) -> Work:
    drawn = random.Random(seed)
    return Work(tuple(drawn.randrange(256) for _ in range(prompt)), output)


def worker_config(measured: Measured, graphs: bool, flash_decode: bool) -> WorkerConfig:
    checkpoint = detect(measured.folder)
    block_size = max(16, decode_kernels.page_multiple() if flash_decode else 1)
    num_blocks = BATCH * -(-CONTEXT // block_size) + 1
    return WorkerConfig(
        architecture=replace(checkpoint.architecture, context_length=CONTEXT),
        weights=CheckpointWeights(checkpoint.path, Bounds()),
        parallelism=Parallelism(),
        dtype=measured.dtype,
        device=measured.device,
        num_blocks=num_blocks,
        block_size=block_size,
        threads=1,
        flash_attention=measured.device == "cuda",
        flash_decode=flash_decode,
        graphs=Buckets.of(BATCH, CONTEXT, block_size, num_blocks, full_width=flash_decode) if graphs else None,
    )


def unfit(measured: Measured, graphs: bool, flash_decode: bool) -> str:
    """Return why a side cannot be measured; empty if it can."""
    if measured.device == "cpu" and (graphs or flash_decode):
        return "needs a GPU"
    found = obstacles(detect(measured.folder).architecture)
    reasons = [found.get("cuda_graphs", "") if graphs else "", found.get("flash_decode", "") if flash_decode else ""]
    if flash_decode and not decode_kernels.installed():
        reasons.append(decode_kernels.NO_KERNEL)
    return "; ".join(r for r in reasons if r)


@contextmanager
def engines(measured: Measured) -> Iterator[dict[str, BatchedAsyncEngine]]:
    """Load our engine once for each combination of optimizations that can run here."""
    limits = SchedulerConfig(CONTEXT, BATCH, max_queue=100_000, prefill_chunk=CONTEXT, prefix_caching=False)
    with ExitStack() as stack:
        found = {}
        for name, side in SIDES.items():
            if why := unfit(measured, *side):
                print(f"left out: {name}: {why}")
                continue
            found[name] = stack.enter_context(running(worker_config(measured, *side), limits))
            print_cold(name, found[name])
        yield found


def print_cold(name: str, engine: BatchedAsyncEngine) -> None:
    """Print what the first request of a new engine waits for: its first prompt, and its first decode steps."""
    outcome = asyncio.run(run_engine(engine, [_work(1, 64, 4)]))
    first, *steps = (f"{1000 * s:.0f}" for s in (*outcome.first, *outcome.between))
    print(f"cold: {name:30s} first prompt {first} ms, then decode steps of {', '.join(steps)} ms")


def transformers_side(measured: Measured) -> Side:
    from transformers import AutoModelForCausalLM

    kind = torch_dtype(measured.dtype)
    model = AutoModelForCausalLM.from_pretrained(measured.folder, dtype=kind).to(measured.device).eval()
    # Like our own sides, it generates as many tokens as are asked.
    model.generation_config.eos_token_id = model.generation_config.bos_token_id = None
    model.generation_config.pad_token_id = 0
    return lambda work: run_transformers(model, work)


@contextmanager
def vllm_side(measured: Measured, python: str) -> Iterator[Side]:
    """Start vLLM's own engine in its environment."""
    from async_llm import Burst, direct

    arguments: dict[str, Any] = {"max_model_len": CONTEXT, "max_num_seqs": BATCH, "enable_prefix_caching": False}
    arguments |= {"skip_tokenizer_init": True, "generation_config": "vllm"} | VLLM[measured.device]
    with direct(python, str(measured.folder), arguments) as vllm:

        def run(work: Sequence[Work]) -> Outcome:
            burst = Burst(len(work), stream=False, score=False, requests=[(w.prompt, w.output) for w in work])
            return Outcome(sum(w.output for w in work), vllm.run(burst), cpu=0.0)

        yield run


def compare(sides: Mapping[str, Callable[[], Outcome]], repeats: int) -> None:
    """Run sides in turn, and print the median of each and its ratio to the first."""
    found = dict(zip(sides, alternate(repeats, *sides.values()), strict=True))
    first = median(next(iter(found.values())))
    for name, outcomes in found.items():
        between = percentiles(outcomes[-1].between) if outcomes[-1].between else ""
        print(f"  {name:30s} {median(outcomes):9.0f} tokens/s   ratio {median(outcomes) / first:5.2f}   {between}")


def decoding(measured: Measured, sides: Mapping[str, Side], repeats: int) -> None:
    for name, work in measured.works().items():
        print(name, flush=True)
        compare({side: lambda run=run, work=work: run(work) for side, run in sides.items()}, repeats)


def prefill(measured: Measured, engine: BatchedAsyncEngine, repeats: int) -> None:
    """Compare torch's flash kernel with its others, on prompts of one chunk each."""
    import torch

    from launcher.engines.runtime.paged import allow_flash

    length, count = 1792 // measured.scale, 16
    work = [Work(tuple(n % 256 for n in range(length)), 1)] * count

    def side(allowed: bool) -> Outcome:
        allow_flash(allowed, torch.device(measured.device))
        outcome = asyncio.run(run_engine(engine, work))
        # What is fast here is reading prompts, not the one token of each.
        return replace(outcome, tokens=length * count)

    print(f"{count} prompts of {length:,} tokens: prompt tokens per second")
    compare({"without flash_attention": lambda: side(False), "flash_attention": lambda: side(True)}, repeats)


def random_llama(shape: Mapping[str, Any], folder: Path) -> Path:
    """Write a Hugging Face folder of a Llama with random weights: its speed does not depend on them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False, dtype=torch.bfloat16))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def run(measured: Measured, options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(engines(measured))
        sides: dict[str, Side] = {
            name: lambda work, e=engine: asyncio.run(run_engine(e, work)) for name, engine in made.items()
        }
        if (measured.folder / "config.json").is_file():
            sides["transformers"] = transformers_side(measured)
            if options.vllm:
                sides["vllm"] = stack.enter_context(vllm_side(measured, options.vllm))
        else:
            print("left out: transformers and vLLM: they need a Hugging Face folder, which mode=convert makes")
        decoding(measured, sides, options.repeats)
        for name, engine in made.items():
            if "cuda_graphs" in engine.describe():
                print(f"captured by {name}: {engine.describe()['cuda_graphs']}")
        prefill(measured, made[PLAIN], options.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; transformers and vLLM need it in Hugging Face's layout")
    parser.add_argument("--vllm", metavar="PYTHON", help="the Python of an environment with vLLM, which becomes a side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with little work and a tiny model")
    options = parser.parse_args()
    if not allocate().gpus and not options.rehearse:
        print("gpu: no NVIDIA GPU was found; nothing was measured (--rehearse runs all of it on a CPU)")
        return
    distributed.import_quietly()
    where = ("cpu", Dtype.fp32, 16) if options.rehearse else ("cuda", Dtype.bf16, 1)
    with tempfile.TemporaryDirectory() as scratch:
        shape = TINY if options.rehearse else LLAMA
        folder = resolve(options.model) if options.model else random_llama(shape, Path(scratch) / "llama")
        started = time.monotonic()
        run(Measured(folder, *where), options)
        print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
