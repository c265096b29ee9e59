"""A model as Hugging Face describes it: its ``config.json``, found by asking the reader whether it says the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from launcher.checkpoints.base import Architecture, NotComputed
from launcher.checkpoints.claims import expert_width
from launcher.checkpoints.convert import Names
from launcher.checkpoints.export.rope_factors import as_scaling
from launcher.checkpoints.export.transforms import normalized
from launcher.checkpoints.huggingface.config import ACTIVATIONS, QWEN_MOE, SLIDING, Config, Stored
from launcher.checkpoints.huggingface.layout import NAMES
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

CLASSES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
"""The class of each ``model_type`` that is read, the most usual first: the first that can express a model is taken."""

TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ACTIVATION = {ours: theirs for theirs, ours in reversed(list(ACTIVATIONS.items()))} | {"gelu_tanh": "gelu_pytorch_tanh"}
UNSEEN = ("dtype", "rope_factors")
"""What is no field of a configuration: the type of the weights, and factors that a rotary scaling gives."""


@dataclass(frozen=True)
class Target:
    """A model in Hugging Face's terms: the values of its ``config.json``, and the names of its tensors."""

    config: Mapping[str, Json]
    names: Names


def target(a: Architecture, dtype: str, source: str) -> Target:
    """Return a model's configuration, which our own reader takes for the same architecture.

    Raises `NotComputed` naming the ``source`` and what no class expresses.
    """
    wanted, missed = normalized(as_scaling(a)), {}
    for kind in CLASSES:
        config = _config(wanted, kind, dtype)
        missed[kind] = _missed(wanted, config)
        if not missed[kind]:
            return Target(config, NAMES[kind])
    closest = min(missed, key=lambda kind: len(missed[kind]))
    values = ", ".join(f"{name}={getattr(wanted, name)!r:.80}" for name in missed[closest])
    raise NotComputed(
        f"{source}: no Hugging Face model expresses it; the closest, {closest}, cannot have {values} "
        f"(expected a model of {', '.join(CLASSES)})"
    )


def with_tokens(config: Mapping[str, Json], tokenizer: Tokenizer | None) -> dict[str, Json]:
    """Add the ids that begin and end a sequence; null says that there is none, where a class has another default."""
    ends = sorted(tokenizer.eos_ids) if tokenizer else []
    begin = tokenizer.bos_id if tokenizer else None
    return dict(config) | {"bos_token_id": begin, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}


def _missed(wanted: Architecture, config: Mapping[str, Json]) -> tuple[str, ...]:
    """Return the fields that a reader of this configuration would take for others."""
    stored = Stored((wanted.vocab_size, wanted.hidden_size), not wanted.tied, wanted.dtype)
    try:
        read = Config(config, Path("config.json")).architecture(stored)
    except CheckpointError:
        return tuple(field.name for field in fields(wanted))
    found = normalized(replace(read, **{name: getattr(wanted, name) for name in UNSEEN}))
    return tuple(
        name for name in (field.name for field in fields(wanted)) if getattr(found, name) != getattr(wanted, name)
    ) or _unseen(wanted)


def _unseen(wanted: Architecture) -> tuple[str, ...]:
    return ("rope_factors",) if wanted.rope_factors and set(wanted.rope_factors) != {1.0} else ()


def _config(a: Architecture, kind: str, dtype: str) -> dict[str, Json]:
    return dict(_common(a, kind, dtype)) | dict(_neox(a) if kind == "gpt_neox" else _llama(a, kind))


def _common(a: Architecture, kind: str, dtype: str) -> Iterator[tuple[str, Json]]:
    yield "architectures", [CLASSES[kind]]
    yield "model_type", kind
    yield "vocab_size", a.vocab_size
    yield "hidden_size", a.hidden_size
    yield "intermediate_size", expert_width(a) if kind == "mixtral" else a.ffn_hidden_size
    yield "num_hidden_layers", a.num_layers
    yield "num_attention_heads", a.num_attention_heads
    yield "hidden_act", ACTIVATION[a.activation]
    yield "max_position_embeddings", a.context_length
    yield "tie_word_embeddings", a.tied
    yield "torch_dtype", TORCH[dtype]
    if a.rope_scaling:
        yield "rope_scaling", dict(a.rope_scaling)


def _neox(a: Architecture) -> Iterator[tuple[str, Json]]:
    yield "rotary_emb_base", a.rotary_base
    yield "rotary_pct", a.rotary_percent
    yield "layer_norm_eps", a.norm_epsilon
    yield "use_parallel_residual", a.parallel_residual
    yield "attention_bias", a.bias


def _llama(a: Architecture, kind: str) -> Iterator[tuple[str, Json]]:
    yield "num_key_value_heads", a.num_query_groups
    yield "head_dim", a.kv_channels
    yield "rms_norm_eps", a.norm_epsilon
    yield "rope_theta", a.rotary_base
    if kind == "llama":
        yield from (("attention_bias", a.bias), ("mlp_bias", a.bias))
    if kind in ("qwen3", "qwen3_moe"):
        yield "attention_bias", False
    if kind in ("qwen2", "qwen3", *QWEN_MOE):
        yield "use_sliding_window", a.sliding_window is not None
        yield "max_window_layers", 0 if a.sliding_window is not None else a.num_layers
    if kind == "qwen2_moe" and a.sliding_window is not None:
        yield "layer_types", [SLIDING] * a.num_layers
    if kind != "llama":
        yield "sliding_window", a.sliding_window
    yield from _experts(a, kind)


def _experts(a: Architecture, kind: str) -> Iterator[tuple[str, Json]]:
    if kind in ("mixtral", *QWEN_MOE):
        yield "num_local_experts" if kind == "mixtral" else "num_experts", a.num_experts or 1
        yield "num_experts_per_tok", a.experts_per_token or 1
    if kind == "qwen2_moe":
        yield "qkv_bias", a.qkv_bias
        yield "shared_expert_intermediate_size", a.shared_expert_ffn_hidden_size or 1
    if kind in QWEN_MOE:
        yield "moe_intermediate_size", expert_width(a)
        yield "norm_topk_prob", a.normalize_expert_weights
        yield from (("decoder_sparse_step", 1), ("mlp_only_layers", []))
