"""What llama.cpp calls the tensors of each architecture, and how it orders their rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.checkpoints import convert
from launcher.checkpoints.parts import GATE

if TYPE_CHECKING:
    from torch import Tensor

SUPPORTED = ("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gptneox")
WITH_EXPERTS = ("llama", "qwen2moe", "qwen3moe")
"""Architectures that may have experts, in every layer; a file of llama has them if it counts them."""

ROOTS = {
    "embedding.word_embeddings": "token_embd",
    "decoder.final_layernorm": "output_norm",
    "output_layer": "output",
}
ATTENTION = {
    "input_layernorm": ("attn_norm",),
    "self_attention.linear_qkv": ("attn_q", "attn_k", "attn_v"),
    "self_attention.q_layernorm": ("attn_q_norm",),
    "self_attention.k_layernorm": ("attn_k_norm",),
    "self_attention.linear_proj": ("attn_output",),
    "pre_mlp_layernorm": ("ffn_norm",),
}
GATED = {"mlp.linear_fc1": ("ffn_gate", "ffn_up"), "mlp.linear_fc2": ("ffn_down",)}
EXPERTS = {
    "mlp.router": ("ffn_gate_inp",),
    "mlp.experts.local_experts.{expert}.linear_fc1": ("ffn_gate_exps.{expert}", "ffn_up_exps.{expert}"),
    "mlp.experts.local_experts.{expert}.linear_fc2": ("ffn_down_exps.{expert}",),
}
SHARED_EXPERT = {
    "mlp.shared_experts": ("ffn_gate_inp_shexp",),
    "mlp.shared_experts.linear_fc1": ("ffn_gate_shexp", "ffn_up_shexp"),
    "mlp.shared_experts.linear_fc2": ("ffn_down_shexp",),
}
NEOX = {
    **ATTENTION,
    "self_attention.linear_qkv": ("attn_qkv",),
    "mlp.linear_fc1": ("ffn_up",),
    "mlp.linear_fc2": ("ffn_down",),
}
LAYER = "blk.{layer}."
STACKED = re.compile(r"^(blk\.\d+\.ffn_(?:gate|up|down)_exps)\.weight$")
"""The tensors of all experts together, whose first axis is the expert."""

OF_AN_EXPERT = re.compile(r"^(blk\.\d+\.ffn_(?:gate|up|down)_exps)\.(\d+)\.weight$")
"""One expert's part of a stacked tensor, as it is called here."""

ROUTER = re.compile(r"\.ffn_gate_inp(_shexp)?\.")
"""What chooses experts, and what weights a shared one."""

SHARED_GATE = re.compile(r"\.ffn_gate_inp_shexp\.")
"""What weights a shared expert: a vector in a file, one row here."""


def names_of(kind: str, experts: bool) -> convert.Names:
    """Return where a file of this architecture keeps the weights of a model."""
    if kind == "gptneox":
        return convert.Names(ROOTS, LAYER, NEOX)
    if kind == "qwen2moe":
        return convert.Names(ROOTS, LAYER, ATTENTION | EXPERTS | SHARED_EXPERT, {GATE: "weight"})
    return convert.Names(ROOTS, LAYER, ATTENTION | (EXPERTS if experts else GATED))


def of_an_expert(stacked: str, expert: int) -> str:
    return f"{stacked.removesuffix('.weight')}.{expert}.weight"


def is_turned(kind: str, name: str) -> bool:
    """Whether rotary pairs of a tensor's rows are next to each other, as llama.cpp wants them for ``llama``."""
    return kind == "llama" and (".attn_q." in name or ".attn_k." in name)


def is_joined(name: str) -> bool:
    """Whether a tensor holds all queries, all keys, all values, where Megatron has them head by head."""
    return ".attn_qkv." in name


def by_heads(tensor: Tensor, channels: int) -> Tensor:
    """Put rows of all queries, keys and values into the order of heads, which `by_parts` undoes."""
    return tensor.reshape(3, -1, channels, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def by_parts(tensor: Tensor, channels: int) -> Tensor:
    return tensor.reshape(-1, 3, channels, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
