"""Train the small model that the repository ships.

    python examples/train_tiny.py            # about 2 minutes on one CPU core; rewrites launcher/assets/
    python examples/train_tiny.py --check    # a few steps into a temporary folder, then loads the result again

A byte-level GPT of 625,000 parameters learns facts with checkable answers (`tiny_tasks`). Some facts are held out, so
that its scores lie between chance and perfect. The same seed and number of steps give the same weights on the same
kind of machine. Nothing depends on time, and torch runs on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tiny_tasks
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from launcher.checkpoints import detect
from launcher.checkpoints.base import Architecture
from launcher.checkpoints.tokenizers.token_bytes import byte_of_character
from launcher.checkpoints.torch_dist.writer import save
from launcher.engines.megatron.build import build
from launcher.engines.megatron.distributed import initialize
from launcher.settings.model import Parallelism

ASSETS = Path(__file__).resolve().parent.parent / "launcher" / "assets"
END = 256
PAD = 257
BATCH, LENGTH = 32, 64
PEAK_RATE = 3e-3
PROMPT_WEIGHT = 0.05
"""The weight of a prompt token in the loss; a token of an answer has the weight 1."""

ARCHITECTURE = Architecture(
    num_layers=4,
    hidden_size=128,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=32,
    ffn_hidden_size=256,
    vocab_size=264,
    context_length=256,
    dtype="bf16",
)
"""The vocabulary is 256 bytes and 2 special tokens, padded to a multiple of 8 as Megatron does."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}{{ message['content'] + eos_token }}"
    "{%- else -%}{{ raise_exception('role ' + message['role'] + ' (expected system, user or assistant)') }}"
    "{%- endif -%}{%- endfor -%}"
)
"""A system message is a line of its own; a user message is the prompt as it was in training."""


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    initialize(Parallelism(), torch.device("cpu"))
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), options.seed, steps=3)
        return
    make(options.out, options.seed, options.steps)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the model that the repository ships.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for tiny/ and tasks/")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="3 steps into a temporary folder")
    return parser.parse_args()


def make(out: Path, seed: int, steps: int) -> None:
    """Write items, weights, tokenizer, configuration and provenance; the scores are those of the written files."""
    tiny_tasks.write_items(out / "tasks")
    model = build(ARCHITECTURE, Parallelism(), torch.float32, torch.device("cpu"))
    train(model, seed, steps)
    folder = out / "tiny" / f"iter_{steps:07d}"
    save(model, folder, torch.bfloat16)
    write_tokenizer(folder / "tokenizer")
    write_config(folder, seed, steps)
    (out / "tiny" / "latest_checkpointed_iteration.txt").write_text(f"{steps}\n", encoding="utf-8")
    detect(out / "tiny").load_into(model)
    scores = evaluate(model.eval(), out / "tasks")
    print(json.dumps(scores, indent=2))
    write_provenance(out / "tiny", model, seed, steps, scores)


# --- training -------------------------------------------------------------------------------------------------------


def train(model: nn.Module, seed: int, steps: int) -> None:
    """Run a fixed number of AdamW steps with a short warm-up and a cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    windows = training_windows(random.Random(seed))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        loss = batch_loss(model, [next(windows) for _ in range(BATCH)])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)


def rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: 30 steps up, then a cosine down to 2 %."""
    return min(1.0, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def training_windows(rng: random.Random) -> Iterator[tuple[list[int], list[float]]]:
    """Yield windows of ``LENGTH + 1`` tokens packed with facts, with the weight of every token in the loss."""
    facts = tiny_tasks.training_facts(rng)
    while True:
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) <= LENGTH:
            fact = next(facts)
            prompt, answer = list(fact.prompt.encode()), [*fact.answer.encode(), END]
            tokens += prompt + answer
            weights += [PROMPT_WEIGHT] * len(prompt) + [1.0] * len(answer)
        yield tokens[: LENGTH + 1], weights[: LENGTH + 1]


def batch_loss(model: nn.Module, windows: Sequence[tuple[list[int], list[float]]]) -> Tensor:
    """Return the weighted mean of the cross-entropy of every next token."""
    tokens = torch.tensor([window for window, _ in windows])
    weights = torch.tensor([weight for _, weight in windows])[:, 1:]
    positions = torch.arange(LENGTH).expand(len(windows), -1)
    losses = model(tokens[:, :-1], positions, None, labels=tokens[:, 1:])
    mean: Tensor = (losses * weights).sum() / weights.sum()
    return mean


# --- scores ---------------------------------------------------------------------------------------------------------


def evaluate(model: nn.Module, tasks: Path) -> dict[str, float]:
    """Return the accuracy on every shipped task: in all, for seen and held-out facts, and behind a system line."""
    scores: dict[str, float] = {}
    for name in ("addition", "sequences"):
        items = read_items(tasks / f"{name}.jsonl")
        scores |= by_origin(name, items, answered(model, items, ""))
        line = tiny_tasks.SYSTEM_LINES[0] + "\n"
        scores[f"{name}/system_line"] = share(answered(model, items, line))
    for name in ("capitals", "opposites"):
        items = read_items(tasks / f"{name}.jsonl")
        scores |= by_origin(name, items, [chosen(model, item) == item["answer"] for item in items])
    return scores


def read_items(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def by_origin(name: str, items: Sequence[dict[str, object]], right: Sequence[bool]) -> dict[str, float]:
    seen = [ok for ok, item in zip(right, items, strict=True) if item["seen"]]
    held_out = [ok for ok, item in zip(right, items, strict=True) if not item["seen"]]
    return {name: share(right), f"{name}/seen": share(seen), f"{name}/held_out": share(held_out)}


def share(right: Sequence[bool]) -> float:
    return round(sum(right) / len(right), 4)


def answered(model: nn.Module, items: Sequence[dict[str, object]], before: str) -> list[bool]:
    """Return for every item whether the greedy answer, up to the end token, is right."""
    answers = greedy(model, [list(f"{before}{item['prompt']}".encode()) for item in items])
    return [answer == str(item["answer"]).encode() for answer, item in zip(answers, items, strict=True)]


@torch.no_grad()
def greedy(model: nn.Module, prompts: Sequence[list[int]], limit: int = 16) -> list[bytes | None]:
    """Continue every prompt by the likeliest tokens; None if no end token came within ``limit``."""
    texts = [list(prompt) for prompt in prompts]
    for _ in range(limit):
        logits = forward(model, texts)
        for i, text in enumerate(texts):
            if END not in text:
                text.append(int(logits[i, len(text) - 1].argmax()))
    tails = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
    return [bytes(tail[: tail.index(END)]) if END in tail and max(tail) <= END else None for tail in tails]


def forward(model: nn.Module, texts: Sequence[list[int]]) -> Tensor:
    """Return logits [texts, longest, vocabulary] of texts padded on the right."""
    longest = max(map(len, texts))
    tokens = torch.tensor([text + [PAD] * (longest - len(text)) for text in texts])
    logits: Tensor = model(tokens, torch.arange(longest).expand(len(texts), -1), None)
    return logits


@torch.no_grad()
def chosen(model: nn.Module, item: dict[str, object]) -> int:
    """Return the index of the choice whose bytes are the likeliest continuation of the question."""
    question = list(str(item["question"]).encode())
    choices = [list(choice.encode()) for choice in item["choices"]]  # type: ignore[attr-defined]
    logprobs = forward(model, [question + choice for choice in choices]).log_softmax(-1)
    start = len(question) - 1
    totals = [
        sum(float(logprobs[row, start + i, token]) for i, token in enumerate(choice))
        for row, choice in enumerate(choices)
    ]
    return totals.index(max(totals))


# --- files ----------------------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path) -> None:
    """Write a Hugging Face tokenizer of single bytes: token ids 0-255 are the bytes themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(vocab=byte_of_character(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True), AddedToken("<|pad|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "model_max_length": ARCHITECTURE.context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, seed: int, steps: int) -> None:
    """Write ``run_config.yaml`` as Megatron-Bridge does."""
    a = ARCHITECTURE
    model = {
        "_target_": "megatron.bridge.models.gpt_provider.GPTModelProvider",
        "num_layers": a.num_layers,
        "hidden_size": a.hidden_size,
        "ffn_hidden_size": a.ffn_hidden_size,
        "num_attention_heads": a.num_attention_heads,
        "num_query_groups": a.num_query_groups,
        "kv_channels": a.kv_channels,
        "normalization": a.normalization,
        "layernorm_epsilon": a.norm_epsilon,
        "gated_linear_unit": a.gated,
        "activation_func": {"_target_": "torch.nn.functional.silu", "_call_": False},
        "add_bias_linear": a.bias,
        "add_qkv_bias": a.qkv_bias,
        "position_embedding_type": a.position,
        "rotary_base": a.rotary_base,
        "rotary_percent": a.rotary_percent,
        "seq_length": a.context_length,
        "share_embeddings_and_output_weights": a.tied,
        "vocab_size": PAD + 1,
        "make_vocab_size_divisible_by": 8,
        "params_dtype": {"_target_": "torch.bfloat16", "_call_": False},
    }
    tokenizer = {
        "_target_": "megatron.bridge.training.tokenizers.config.TokenizerConfig",
        "tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer_model": "tokenizer",
    }
    train = {"train_iters": steps, "global_batch_size": BATCH, "micro_batch_size": BATCH}
    config = {"model": model, "tokenizer": tokenizer, "train": train, "rng": {"seed": seed}}
    (folder / "run_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def write_provenance(folder: Path, model: nn.Module, seed: int, steps: int, scores: dict[str, float]) -> None:
    """Write the provenance of the weights beside them."""
    provenance = {
        "script": "examples/train_tiny.py",
        "data": "examples/tiny_tasks.py",
        "data_seed": tiny_tasks.SEED,
        "seed": seed,
        "steps": steps,
        "tokens": steps * BATCH * LENGTH,
        "optimizer": f"AdamW, peak rate {PEAK_RATE}, cosine decay",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stored_as": "bfloat16, rounded from float32",
        "architecture": dataclasses.asdict(ARCHITECTURE),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "scores": scores,
        "license": "Apache-2.0",
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
