"""The part of `engine.py` that serves one folder by our engine and by vLLM, beside each other, over HTTP."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from async_llm import QUIET, SKIPPED, SMALL, Burst, Served, bursts
from backends import launched

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""SmolLM2-135M. Its weights are random here: they decide no speed."""


@dataclass(frozen=True)
class Rates:
    """Generated tokens per second, and per second of CPU of all processes."""

    wall: float
    cpu: float


def write_model(folder: Path) -> None:
    """Write a model of `SHAPE`, with a tokenizer of bytes and of words that no text has."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *alphabet, *(f"word{n}" for n in range(SHAPE["vocab_size"] - len(alphabet) - 2))]
    tokenizer = Tokenizer(models.BPE({word: token for token, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


@contextmanager
def served(folder: Path, checkpoint: Path, *backend: str) -> Iterator[Served]:
    arguments = [
        *(f"model.path={checkpoint}", "model.name=shape", "model.context_length=512"),
        *("optimizations.dtype=fp32", "optimizations.prefix_caching=false", "tasks=[addition]", SKIPPED),
    ]
    with launched(folder, *backend, *arguments) as server:
        (pid,) = server.roots
        yield Served(pid, server.url, server.model)


def rates(side: Served, burst: Burst) -> Rates:
    tokens = sum(output for _, output in burst.requests)
    before = side.spent()[0]
    seconds = side.run(burst)
    return Rates(tokens / seconds, tokens / (side.spent()[0] - before))


def take_turns(ours: Served, theirs: Served, requests: int, rounds: int) -> list[tuple[Rates, Rates]]:
    """Measure both in turns, after a small round that counts for nothing; the one that waits is stopped."""
    found = []
    for number in range(-1, rounds):
        burst = next(b for b in bursts(number, [requests if number >= 0 else 4], "shape") if not b.stream)
        turn = {}
        for side, other in ((ours, theirs), (theirs, ours))[:: -1 if number % 2 else 1]:
            with stopped(other):
                turn[side.pid] = rates(side, burst)
        if number >= 0:
            found.append((turn[ours.pid], turn[theirs.pid]))
    return found


@contextmanager
def stopped(side: Served) -> Iterator[None]:
    root = psutil.Process(side.pid)
    family = (root, *root.children(recursive=True))
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


def show(found: Sequence[tuple[Rates, Rates]], requests: int, threads: int) -> None:
    print(f"vllm: {requests} requests together over HTTP, SmolLM2-135M's shape, fp32, {threads} threads")
    for name, side in (("engine", 0), ("vLLM", 1)):
        wall, cpu = (statistics.median(getattr(turn[side], kind) for turn in found) for kind in ("wall", "cpu"))
        print(f"  {name:13} {wall:9.1f} tokens/s   {cpu:.1f} per CPU-second")
    wall, cpu = (statistics.median(getattr(a, kind) / getattr(b, kind) for a, b in found) for kind in ("wall", "cpu"))
    print(f"  ratio         {wall:9.2f}   by CPU time {cpu:.2f}   (target: at least 1, by CPU time 1.5)", flush=True)


def run(program: str, requests: int, rounds: int, threads: int) -> None:
    """Print the rates of both; a line that says why, if vLLM is not here."""
    if shutil.which(program) is None:
        print(f"vllm: left out: the program '{program}' is not here (--vllm; `make vllm` makes build/vllm/bin/vllm)")
        return
    os.environ.update(QUIET | {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, checkpoint = Path(name), Path(name) / "model"
        write_model(checkpoint)
        own = ("engine=megatron", f"engine.threads={threads}")
        ours = stack.enter_context(served(folder / "ours", checkpoint, *own))
        vllm = ("backend=vllm", f'backend.program="{program} serve"', f'backend.arguments="{SMALL}"')
        theirs = stack.enter_context(served(folder / "vllm", checkpoint, *vllm))
        show(take_turns(ours, theirs, requests, rounds), requests, threads)
