"""From an `Architecture` to a megatron-core ``GPTModel`` on any device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from launcher.checkpoints.base import Architecture
from launcher.settings.model import Parallelism

if TYPE_CHECKING:
    import torch
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.spec_utils import ModuleSpec
    from torch import Tensor

    from launcher.engines.megatron.modules import GPT


def build(
    architecture: Architecture,
    parallelism: Parallelism,
    dtype: torch.dtype,
    device: torch.device,
    *,
    initialize: bool = True,
) -> GPT:
    """Build this rank's part of the model, in training mode.

    With ``initialize`` the parameters are random, from torch's generator; without, they are uninitialized memory and
    must be loaded.

    The process groups must have been joined (`distributed.initialize`) with the same ``parallelism``. The model trains
    with ``model(tokens, positions, None, labels=labels)`` -> losses [batch, length]; without labels it returns logits
    [batch, length, vocabulary part].
    """
    from megatron.core import parallel_state as state

    from launcher.engines.megatron.modules import GPT, Rotary

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformer_config(architecture, parallelism, dtype)
        config.perform_initialization = initialize
        model: GPT = GPT(
            config=config,
            transformer_layer_spec=_spec(architecture, config),
            vocab_size=architecture.vocab_size,
            max_sequence_length=architecture.context_length,
            pre_process=state.is_pipeline_first_stage(),
            post_process=state.is_pipeline_last_stage(),
            # The base class's table of angles needs CUDA; `Rotary` replaces it below.
            position_embedding_type="none" if architecture.position == "rope" else architecture.position,
            share_embeddings_and_output_weights=architecture.tied,
        )
    if architecture.position == "rope":
        model.position_embedding_type = "rope"
        model.rotary_pos_emb = Rotary(architecture, device)
    _connect(model, architecture)
    model.to(device=device, dtype=dtype)
    if initialize:
        model.tie()
    return model


def transformer_config(architecture: Architecture, parallelism: Parallelism, dtype: torch.dtype) -> TransformerConfig:
    """Return megatron-core's configuration of this architecture, without dropout and without fused CUDA kernels."""
    from megatron.core.transformer import TransformerConfig

    a = architecture
    return TransformerConfig(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        num_attention_heads=a.num_attention_heads,
        num_query_groups=a.num_query_groups,
        kv_channels=a.kv_channels,
        ffn_hidden_size=a.ffn_hidden_size,
        normalization=a.normalization,
        layernorm_epsilon=a.norm_epsilon,
        gated_linear_unit=a.gated,
        activation_func=_activation(a.activation),
        add_bias_linear=a.bias,
        add_qkv_bias=a.qkv_bias,
        qk_layernorm=a.qk_norm,
        rotary_interleaved=a.rotary_interleaved,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        use_cpu_initialization=True,
        tensor_model_parallel_size=parallelism.tensor,
        pipeline_model_parallel_size=parallelism.pipeline,
        context_parallel_size=parallelism.context,
        expert_model_parallel_size=parallelism.expert,
        expert_tensor_parallel_size=parallelism.tensor // parallelism.expert,
        **(_experts(a) if a.num_experts else {}),
    )


def _experts(architecture: Architecture) -> dict[str, Any]:
    return {
        "num_moe_experts": architecture.num_experts,
        "moe_router_topk": architecture.experts_per_token,
        "moe_ffn_hidden_size": architecture.expert_ffn_hidden_size or architecture.ffn_hidden_size,
        # A softmax over only the chosen experts equals normalizing their weights.
        "moe_router_pre_softmax": not architecture.normalize_expert_weights,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "allgather",
        "moe_router_dtype": "fp32",
        "moe_shared_expert_intermediate_size": architecture.shared_expert_ffn_hidden_size,
        "moe_shared_expert_gate": architecture.shared_expert_gate,
    }


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    import torch.nn.functional as F

    def squared_relu(x: Tensor) -> Tensor:
        return F.relu(x).square()

    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": partial(F.gelu, approximate="tanh"),
        "relu": F.relu,
        "squared_relu": squared_relu,
    }
    return functions[name]


def _spec(architecture: Architecture, config: TransformerConfig) -> ModuleSpec:
    """Return megatron-core's local layer spec with the launcher's modules."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    from launcher.engines.megatron import modules

    spec = get_gpt_layer_local_spec(
        num_experts=architecture.num_experts or None,
        qk_layernorm=architecture.qk_norm,
        normalization=architecture.normalization,
    )
    spec.module = modules.Layer
    attention = spec.submodules.self_attention
    attention.module = modules.PagedSelfAttention
    attention.submodules.linear_qkv = modules.Column
    attention.submodules.linear_proj = modules.Row
    attention.submodules.core_attention = modules.CausalAttention
    feed_forward = spec.submodules.mlp
    if architecture.num_experts:
        feed_forward.module = modules.Experts
        feed_forward.submodules.router = modules.Router
        shared = feed_forward.submodules.shared_experts
        shared.submodules.linear_fc1 = modules.Column
        shared.submodules.linear_fc2 = modules.Row
        feed_forward = feed_forward.submodules.experts
    feed_forward.submodules.linear_fc1 = modules.Column
    feed_forward.submodules.linear_fc2 = modules.Row
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = _norm(architecture)
    if architecture.qk_norm:
        attention.submodules.q_layernorm = attention.submodules.k_layernorm = _norm(architecture)
    return spec


def _norm(architecture: Architecture) -> type:
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    from launcher.engines.megatron.modules import ZeroCenteredNorm

    return ZeroCenteredNorm if architecture.zero_centered_gamma else WrappedTorchNorm


def _connect(model: GPT, architecture: Architecture) -> None:
    """Set the attributes that megatron-core's config does not have, and the last norm, which no layer's spec names."""
    decoder = model.decoder
    if decoder.final_layernorm is not None:
        config = decoder.config
        decoder.final_layernorm = _norm(architecture)(config, config.hidden_size, config.layernorm_epsilon)
    for layer in model.decoder.layers:
        layer.parallel_residual = architecture.parallel_residual
        layer.self_attention.core_attention.window = architecture.sliding_window
