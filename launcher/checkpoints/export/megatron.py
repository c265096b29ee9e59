"""A model as megatron-core's configuration, found by asking the reader whether it says the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

from launcher.checkpoints.base import Architecture, NotComputed
from launcher.checkpoints.claims import expert_width
from launcher.checkpoints.export.rope_factors import as_scaling
from launcher.checkpoints.export.transforms import normalized
from launcher.checkpoints.megatron_config import ACTIVATIONS, architecture
from launcher.checkpoints.torch_dist.index import Stored
from launcher.checkpoints.torch_dist.tensor_store import EMBEDDING, OUTPUT, TensorStore
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
FUNCTIONS = {ours: theirs for theirs, ours in reversed(list(ACTIVATIONS.items()))}
KEPT = ("zero_centered_gamma", "rotary_interleaved")
"""What Megatron has a switch for, and other layouts express by other weights."""


def configuration(a: Architecture, dtype: str, source: str) -> dict[str, Json]:
    """Return the fields of megatron-core's configuration, which our own reader takes for the same architecture.

    Raises `NotComputed` naming the ``source`` and what Megatron has no field for.
    """
    wanted = as_scaling(a)
    config = dict(_fields(wanted, dtype))
    missed = _missed(wanted, config)
    if missed:
        values = ", ".join(f"{name}={getattr(wanted, name)!r:.80}" for name in missed)
        raise NotComputed(f"{source}: megatron-core's configuration cannot have {values} (expected convert.format=hf)")
    return config


def is_llama3(config: Mapping[str, Json]) -> bool:
    """Tell whether the rotary frequencies are scaled as those of Llama 3.1, which only its own classes do."""
    return "scale_factor" in config


def function(name: str) -> dict[str, Json]:
    """Return how OmegaConf names something that is used and not called."""
    return {"_target_": name, "_call_": False}


def _missed(wanted: Architecture, config: Mapping[str, Json]) -> list[str]:
    """Return the fields that a reader of this configuration would take for others."""
    embedding = Stored((wanted.vocab_size, wanted.hidden_size), TORCH[wanted.dtype])
    tensors = {EMBEDDING: embedding} | ({} if wanted.tied else {OUTPUT: embedding})
    try:
        read = architecture(config, TensorStore(Path(), tensors), Path("model.yaml"))
    except CheckpointError:
        return [field.name for field in fields(wanted)]
    found, expected = (replace(normalized(x), **{name: getattr(x, name) for name in KEPT}) for x in (read, wanted))
    return [f.name for f in fields(wanted) if getattr(found, f.name) != getattr(expected, f.name)]


def _fields(a: Architecture, dtype: str) -> Iterator[tuple[str, Json]]:
    yield from (("num_layers", a.num_layers), ("hidden_size", a.hidden_size), ("ffn_hidden_size", a.ffn_hidden_size))
    yield from (("num_attention_heads", a.num_attention_heads), ("num_query_groups", a.num_query_groups))
    yield from (("kv_channels", a.kv_channels), ("seq_length", a.context_length))
    yield from (("vocab_size", a.vocab_size), ("make_vocab_size_divisible_by", _divisor(a.vocab_size)))
    yield from (("normalization", a.normalization), ("layernorm_epsilon", a.norm_epsilon))
    yield "layernorm_zero_centered_gamma", a.zero_centered_gamma
    yield from (("gated_linear_unit", a.gated), ("activation_func", function(FUNCTIONS[a.activation])))
    yield "bias_activation_fusion", False
    yield from (("add_bias_linear", a.bias), ("add_qkv_bias", a.qkv_bias and not a.bias), ("qk_layernorm", a.qk_norm))
    yield "position_embedding_type", a.position
    yield "share_embeddings_and_output_weights", a.tied
    yield "window_size", None if a.sliding_window is None else [a.sliding_window - 1, 0]
    yield from (("hidden_dropout", 0.0), ("attention_dropout", 0.0))
    yield from (
        ("params_dtype", function(f"torch.{TORCH[dtype]}")),
        ("bf16", dtype == "bf16"),
        ("fp16", dtype == "fp16"),
    )
    yield from _rotary(a)
    yield from _experts(a)


def _divisor(rows: int) -> int:
    """Return what the vocabulary may be padded to a multiple of without a further row."""
    return next(size for size in (128, 64, 32, 16, 8, 4, 2, 1) if rows % size == 0)


def _rotary(a: Architecture) -> Iterator[tuple[str, Json]]:
    if a.position == "rope":
        yield "rotary_base", int(a.rotary_base) if a.rotary_base.is_integer() else a.rotary_base
        yield from (("rotary_percent", a.rotary_percent), ("rotary_interleaved", a.rotary_interleaved))
    scaling = a.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        yield "seq_len_interpolation_factor", scaling["factor"]
    if scaling.get("rope_type") == "llama3":
        yield "scale_factor", scaling["factor"]
        yield "low_freq_factor", scaling["low_freq_factor"]
        yield "high_freq_factor", scaling["high_freq_factor"]
        yield "old_context_len", scaling["original_max_position_embeddings"]


def _experts(a: Architecture) -> Iterator[tuple[str, Json]]:
    if a.num_experts:
        yield from (("num_moe_experts", a.num_experts), ("moe_router_topk", a.experts_per_token))
        yield "moe_ffn_hidden_size", expert_width(a)
        yield "moe_router_pre_softmax", not a.normalize_expert_weights
    if a.shared_expert_ffn_hidden_size:
        yield "moe_shared_expert_intermediate_size", a.shared_expert_ffn_hidden_size
        yield "moe_shared_expert_gate", a.shared_expert_gate
