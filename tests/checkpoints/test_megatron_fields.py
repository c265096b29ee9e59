"""Every field of megatron-core's configuration is read, refused, or known to change no answer."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from megatron.core.transformer import TransformerConfig

from launcher.checkpoints.megatron_config import OFF, architecture
from launcher.checkpoints.torch_dist.index import Stored
from launcher.checkpoints.torch_dist.tensor_store import EMBEDDING, TensorStore
from launcher.core.errors import CheckpointError

HARMLESS = re.compile(
    r"""
    # how a model is spread, how its parts talk, and what is kept where
    (tensor|pipeline|context|expert|virtual|sequence|hierarchical|hybrid_context|async_tensor|microbatch).*(parallel|group).*
    | max_seqlen_per_dp_cp_rank | moe_extended_tp | tp_comm_.* | cp_comm_type | symmetric_ar_type | variable_seq_lengths
    | (batch|overlap|use_ring|deallocate|defer|wgrad|delay|ep_overlap|clone_scatter)_.* | barrier_with_L1_time
    | num_(microbatches|layers_in|layers_at)_.* | account_for_.* | mtp_.* | _?cpu_offloading.* | pipeline_dtype
    | fine_grained_activation_offloading | offload_modules | min_offloaded_tensor_size | mlp_chunks_for_prefill
    # training: initial values, losses, dropout, gradients, recomputation, noise that only training adds
    | perform_initialization | use_cpu_initialization | .*init_method.* | init_model_with_meta_device | hidden_dropout
    | attention_dropout | .*_func | gradient_accumulation_fusion | cross_entropy_.* | calculate_per_token_loss
    | recompute_.* | distribute_saved_activations | qk_clip.* | log_max_attention_logit | moe_(aux|z)_loss_coeff
    | moe_router_bias_update_rate | moe_input_jitter_eps | moe_layer_recompute | moe_per_layer_logging
    # types, kernels, random numbers, logs: the same function with other rounding, or the same bits
    | fp16 | bf16 | params_dtype | (fp8|fp4|quant).* | (enable_)?autocast.* | .*fusion | fused_.*
    | use_(fused|te|mamba)_.*
    | use_kitchen.* | kitchen_.* | fp32_residual_connection | attention_softmax_in_fp32 | apply_query_key_layer_scaling
    | attention_backend | disable_.* | persist_layer_norm | memory_efficient_layer_norm | first_last_layers_bf16
    | activation_func_fp8_input_store | tp_only_amax_red | moe_router_(dtype|padding.*)
    | flash_decode | batch_invariant_mode
    | deterministic_mode | (enable_|external_)?cuda_graph.* | inference_.* | use_inference_optimized_layers | test_mode
    | timers | config_logger_dir | transformer_impl | hetereogenous_dist_checkpoint
    # how experts are computed, not which
    | moe_(use_legacy_)?grouped_gemm | moe_token_(dropping|dispatcher_type|drop_policy)
    | moe_enable_(deepep|routing_replay)
    | moe_flex_dispatcher_backend | moe_pad_expert_input_to_capacity | moe_(deepep|hybridep)_num_sms
    | moe_shared_expert_overlap
    # of kinds of attention and of layers that are refused by another field
    | dsa_indexer_.* | linear_(conv|key|value|num).* | mamba_.*
    """,
    re.VERBOSE,
)

CONFIG: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "seq_length": 64,
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_shared_expert_intermediate_size": 16,
    "add_bias_linear": False,
    "gated_linear_unit": True,
    "rope_scaling": True,
    "rope_scaling_factor": 8.0,
}
STORE = TensorStore(Path("weights"), {EMBEDDING: Stored((64, 32), "float32")})


class Asked(dict[str, Any]):
    """A configuration that remembers which keys it was asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.keys_asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)


def test_every_field_is_read_or_known_to_be_harmless() -> None:
    config = Asked(CONFIG)
    architecture(config, STORE, Path("config"))
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    harmless = {name for name in fields if HARMLESS.fullmatch(name)}
    assert fields - config.keys_asked - harmless == set()
    assert harmless & config.keys_asked == {"activation_func", "bias_activation_fusion"}, "read, though called harmless"


@pytest.mark.parametrize("key", OFF)
def test_what_is_not_computed_is_refused(key: str) -> None:
    for value in (OFF[key] or (None,)) + (None,):
        assert architecture(CONFIG | {key: value}, STORE, Path("config"))
    with pytest.raises(CheckpointError, match=f"config: {key} is 'other'"):
        architecture(CONFIG | {key: "other"}, STORE, Path("config"))
