"""Tiny random models of transformers on disk, each with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from launcher.distributed.allocation import Allocation

CONTEXT = 128
VOCABULARY = 264
HOST = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=1, gpus=0)

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

FLAT: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 12},
    "mixtral": {"num_local_experts": 4},
    "gemma3_text": {"head_dim": 16, "sliding_window": 10, "layer_types": MIXED},
    "gpt_neox": {},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT},
}
"""Models that compute all sequences of a step together."""

SEQUENTIAL: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4, "n_layer": 3},
    "gemma2": {"head_dim": 16, "sliding_window": 10},
    "gpt_oss": {"head_dim": 16, "sliding_window": 10, "num_local_experts": 4},
    "llama4_text": {"head_dim": 16, "attention_chunk_size": 10, "num_local_experts": 2, "intermediate_size_mlp": 96},
}
"""Models with special attention: biases by distance, capped scores, sinks, chunks."""

REFUSED: dict[str, dict[str, Any]] = {
    "bert": {},
    "mamba": {},
    "falcon_h1": {},
}
"""Models that see later tokens, or keep a state other than keys and values."""


def random_model(kind: str, **changes: Any) -> Any:
    """Return a model whose weights are large enough for its answers to differ plainly."""
    extra = (FLAT | SEQUENTIAL | REFUSED)[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SIZES | extra | changes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model.eval().requires_grad_(False)


def save(kind: str, folder: Path, **changes: Any) -> Path:
    """Write a random model with its tokenizer as ``save_pretrained`` does."""
    random_model(kind, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, and an end of text (256)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
