"""Read Megatron-core's model configuration from NeMo, Megatron-Bridge or Megatron-LM as an `Architecture`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import LARGEST, flag, number, positive
from launcher.checkpoints.parts import refuse_uncomputed
from launcher.checkpoints.torch_dist.tensor_store import OUTPUT, TensorStore
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

Config = Mapping[str, Json]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "squared_relu"]
Position = Literal["rope", "learned_absolute", "none"]

ACTIVATIONS: Mapping[str, Activation] = {
    "torch.nn.functional.silu": "silu",
    "torch.nn.functional.gelu": "gelu",
    "torch._C._nn.gelu": "gelu",
    "torch.nn.functional.relu": "relu",
    "torch.relu": "relu",
    "megatron.core.activations.squared_relu": "squared_relu",
    "megatron.core.activations.fast_gelu": "gelu_tanh",
}
"""Activation functions by the name that a checkpoint stores. Nothing that a checkpoint names is ever imported."""

OFF: Mapping[str, tuple[Json, ...]] = {
    "multi_latent_attention": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "attention_output_gate": (False,),
    "experimental_attention_variant": (),
    "heterogeneous_block_specs": (False,),
    "is_hybrid_model": (False,),
    "qk_l2_norm": (False,),
    "softmax_scale": (),
    "softmax_type": ("vanilla",),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "no_rope_freq": (),
    "window_attn_skip_freq": (),
    "glu_linear_offset": (0, 0.0),
    "activation_func_clamp_value": (),
    "moe_layer_freq": (1,),
    "moe_router_score_function": ("softmax",),
    "moe_router_enable_expert_bias": (False,),
    "moe_router_num_groups": (),
    "moe_router_group_topk": (),
    "moe_router_topk_scaling_factor": (1, 1.0),
    "moe_apply_probs_on_input": (False,),
    "moe_latent_size": (),
    "moe_expert_capacity_factor": (-1, -1.0),
    "moe_router_force_load_balancing": (False,),
    "moe_router_load_balancing_type": ("none", "aux_loss", "seq_aux_loss", "global_aux_loss"),
    "moe_router_topk_limited_devices": (),
    "linear_attention_freq": (),
    "mrope_section": (),
    "hybrid_override_pattern": ("",),
    "hybrid_layer_pattern": ("",),
    "use_mup": (False,),
    "apply_embedding_scaling": (False,),
    "scale_positional_embedding": (False,),
}
"""What changes the model in ways this program does not compute, with the values (besides null) that do not."""

CLASSES: Mapping[str, str] = {
    "Gemma": "whose embeddings are multiplied by the square root of hidden_size",
    "Embedding": "which attends to later tokens",
    "Reranker": "which attends to later tokens",
}
"""What models of NeMo and Megatron-Bridge compute that no field or tensor shows, by a part of their class's name."""

ELSEWHERE = "export it to a Hugging Face folder, which engine=huggingface or backend=vllm may serve"


def architecture(config: Config, store: TensorStore, file: Path) -> Architecture:
    """Return the architecture of a megatron-core configuration and the tensors that go with it.

    ``config`` uses the field names of megatron-core's ``TransformerConfig`` and of NeMo's and Megatron-Bridge's GPT
    providers. Raises `CheckpointError` naming ``file`` and the key for what is missing or not supported.
    """
    _refuse_unsupported(config, file)
    hidden, heads = number(config, "hidden_size", file), number(config, "num_attention_heads", file)
    _check_width(hidden, store, file)
    _check_output(config, store, file)
    experts = number(config, "num_moe_experts", file) if config.get("num_moe_experts") else 0
    shared = _shared_width(config, file)
    found = Architecture(
        num_layers=number(config, "num_layers", file),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=number(config, "num_query_groups", file, heads),
        kv_channels=number(config, "kv_channels", file, max(1, hidden // heads)),
        ffn_hidden_size=number(config, "ffn_hidden_size", file, 4 * hidden),
        vocab_size=store.embedding.shape[0],
        context_length=number(config, "seq_length", file),
        normalization=_choice(config, "normalization", "LayerNorm", get_args(Literal["RMSNorm", "LayerNorm"]), file),
        norm_epsilon=positive(config, "layernorm_epsilon", file, 1e-5),
        zero_centered_gamma=flag(config, "layernorm_zero_centered_gamma", file),
        gated=flag(config, "gated_linear_unit", file),
        activation=_activation(config, file),
        bias=flag(config, "add_bias_linear", file, True),
        qkv_bias=flag(config, "add_qkv_bias", file),
        qk_norm=flag(config, "qk_layernorm", file),
        position=_choice(config, "position_embedding_type", "learned_absolute", get_args(Position), file),
        rotary_base=positive(config, "rotary_base", file, 10000.0),
        rotary_percent=positive(config, "rotary_percent", file, 1.0, most=1.0),
        rotary_interleaved=flag(config, "rotary_interleaved", file),
        rope_scaling=_rope_scaling(config, file),
        tied=store.tied,
        sliding_window=_window(config, file),
        num_experts=experts,
        experts_per_token=number(config, "moe_router_topk", file, 2) if experts else 0,
        expert_ffn_hidden_size=_expert_width(config, file) if experts else None,
        normalize_expert_weights=not flag(config, "moe_router_pre_softmax", file),
        shared_expert_ffn_hidden_size=shared,
        shared_expert_gate=shared is not None and flag(config, "moe_shared_expert_gate", file),
        dtype=store.dtype,
    )
    refuse_uncomputed(found, file)
    return found


def _check_width(hidden: int, store: TensorStore, file: Path) -> None:
    """Compare with what is stored, before a model of another size is built."""
    shape = list(store.embedding.shape)
    if len(shape) != 2 or shape[1] != hidden:
        raise CheckpointError(f"{file}: hidden_size is {hidden}; the stored embedding has shape {shape}")


def _check_output(config: Config, store: TensorStore, file: Path) -> None:
    """Refuse an output layer that is not stored, and one that is and that the model would not use."""
    for key, tied in (("share_embeddings_and_output_weights", True), ("untie_embeddings_and_output_weights", False)):
        if config.get(key) is None or (flag(config, key, file) is tied) is store.tied:
            continue
        what = "is stored" if not store.tied else "is missing"
        raise CheckpointError(f"{file}: {key} is {shown(config[key])}; tensor '{store.prefix}{OUTPUT}' {what}")


def _expert_width(config: Config, file: Path) -> int | None:
    return None if config.get("moe_ffn_hidden_size") is None else number(config, "moe_ffn_hidden_size", file)


def _shared_width(config: Config, file: Path) -> int | None:
    key = "moe_shared_expert_intermediate_size"
    return number(config, key, file) if config.get(key) else None


T = TypeVar("T")


def _choice(config: Config, key: str, default: str, accepted: tuple[T, ...], file: Path) -> Any:
    value = config.get(key) or default
    if value not in accepted:
        raise CheckpointError(f"{file}: {key} is {shown(value)} (supported: {', '.join(map(str, accepted))})")
    return value


def _refuse_unsupported(config: Config, file: Path) -> None:
    for key, harmless in OFF.items():
        value = config.get(key)
        values = value if isinstance(value, list) else [value]
        if any(entry is not None and entry not in harmless for entry in values):
            raise _not_computed(f"{key} is {shown(value)}, which", file)
    name = _target(config.get("_target_"))
    found = next((what for part, what in CLASSES.items() if part in name.rsplit(".", 1)[-1]), None)
    if found:
        raise _not_computed(f"_target_ is {shown(name)}, {found}. This", file)


def _not_computed(what: str, file: Path) -> CheckpointError:
    return CheckpointError(f"{file}: {what} the megatron engine does not compute; {ELSEWHERE}")


def _activation(config: Config, file: Path) -> Activation:
    """Return the activation function; megatron-core's fused gelu is always the tanh approximation."""
    named = _target(config.get("activation_func", "torch.nn.functional.gelu"))
    if isinstance(config.get("activation_func"), Mapping) and config["activation_func"].get("approximate") == "tanh":
        return "gelu_tanh"
    activation = ACTIVATIONS.get(named)
    if activation is None:
        raise CheckpointError(f"{file}: activation_func is {shown(named)} (supported: {', '.join(ACTIVATIONS)})")
    joined = flag(config, "gated_linear_unit", file) or flag(config, "add_bias_linear", file)
    fused = flag(config, "bias_activation_fusion", file) and joined
    return "gelu_tanh" if activation == "gelu" and fused else activation


def _target(value: Json) -> str:
    """Return the dotted name in ``{_target_: name}``, also of a ``functools.partial`` over it."""
    if isinstance(value, Mapping) and value.get("_target_") == "functools.partial":
        arguments = value.get("_args_")
        value = arguments[0] if isinstance(arguments, list) and arguments else value.get("func")
    named = value.get("_target_") if isinstance(value, Mapping) else value
    return named if isinstance(named, str) else shown(named)


def _rope_scaling(config: Config, file: Path) -> dict[str, Json] | None:
    """Return the scaling in Hugging Face's form: linear interpolation, or Llama 3.1's in one of two spellings."""
    if config.get("seq_len_interpolation_factor"):
        return {"rope_type": "linear", "factor": positive(config, "seq_len_interpolation_factor", file, 1.0)}
    key = "rope_scaling_factor" if flag(config, "rope_scaling", file) else "scale_factor"
    if key == "scale_factor" and not config.get(key):
        return None
    return {
        "rope_type": "llama3",
        "factor": positive(config, key, file, 8.0),
        "low_freq_factor": positive(config, "low_freq_factor", file, 1.0),
        "high_freq_factor": positive(config, "high_freq_factor", file, 4.0),
        "original_max_position_embeddings": number(config, "old_context_len", file, 8192),
    }


def _window(config: Config, file: Path) -> int | None:
    """Return how many keys a query sees, itself included; ``window_size`` counts those to the left and right."""
    window = config.get("window_size")
    if window is None:
        return None
    given = window if isinstance(window, list | tuple) else ()
    sides = [side for side in given if type(side) is int and -1 <= side < LARGEST]
    if len(given) != 2 or len(sides) != 2 or sides[1] > 0:
        raise CheckpointError(f"{file}: window_size is {shown(window)} (expected [n, 0])")
    return None if sides[0] < 0 else sides[0] + 1
