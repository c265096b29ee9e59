"""Defaults of transformers' configuration classes for keys that a config.json omits, per ``model_type``.

A test compares the defaults with the installed classes, so that reading a configuration need not import them: that
takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core.types import Json

COMMON: Mapping[str, Json] = {
    "initializer_range": 0.02,
    "use_cache": True,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "rope_parameters": None,
    "attention_dropout": 0.0,
}
"""Defaults that all these classes share."""

CLASSES: Mapping[str, Mapping[str, Json]] = {
    "llama": {
        **COMMON,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-06,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pretraining_tp": 1,
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": None,
    },
    "mistral": {
        **COMMON,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-06,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": 4096,
    },
    "mixtral": {
        **COMMON,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-05,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
    },
    "qwen2": {
        **COMMON,
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "qwen2_moe": {
        **COMMON,
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "mlp_only_layers": None,
        "qkv_bias": True,
        "layer_types": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "qwen3": {
        **COMMON,
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "qwen3_moe": {
        **COMMON,
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "mlp_only_layers": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "gpt_neox": {
        **COMMON,
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.1,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-05,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "use_parallel_residual": True,
        "attention_bias": True,
        "is_decoder": False,
    },
}
"""The default of every key of a class, by ``model_type``."""

THETA: Mapping[str, float] = {"mixtral": 1000000.0}
"""The base of the rotary frequencies, where it is not 10000."""

NULLABLE: Mapping[str, tuple[str, ...]] = {
    "llama": ("num_key_value_heads", "head_dim"),
    "mistral": ("head_dim", "sliding_window"),
    "mixtral": ("head_dim", "sliding_window"),
    "qwen2": ("num_key_value_heads", "sliding_window", "layer_types"),
    "qwen2_moe": ("num_key_value_heads", "sliding_window", "mlp_only_layers", "layer_types"),
    "qwen3": ("num_key_value_heads", "sliding_window", "layer_types"),
    "qwen3_moe": ("sliding_window", "mlp_only_layers"),
    "gpt_neox": (),
}
"""Keys of the architecture that a class takes null for; for any other it wants a value."""

READ = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "layer_norm_eps"),
    *("tie_word_embeddings", "rope_parameters", "attention_bias", "mlp_bias", "use_parallel_residual"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    *("num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    *("decoder_sparse_step", "mlp_only_layers", "shared_expert_intermediate_size", "qkv_bias"),
}
"""Keys that the reader uses, or refuses where the megatron engine does not compute what they ask for."""

HARMLESS = {
    *("initializer_range", "use_cache", "pretraining_tp", "is_decoder"),
    *("attention_dropout", "hidden_dropout", "classifier_dropout"),
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
}
"""Keys that change no answer: they are about training, about what else is returned, or the tokenizer's."""

HARMLESS_BASE = {
    *("transformers_version", "output_hidden_states", "return_dict", "dtype", "chunk_size_feed_forward"),
    *("id2label", "label2id", "problem_type"),
}
"""The same, of the class that all others derive from."""

READ_BASE = {"architectures", "is_encoder_decoder"}

FOREIGN: Mapping[str, tuple[Json, ...]] = {
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"), (0,)),
    **dict.fromkeys(("scale_depth", "scale_emb", "logit_scale", "logits_scaling", "residual_multiplier"), (1,)),
    **dict.fromkeys(("embedding_multiplier", "embedding_scale", "lm_head_multiplier"), (1,)),
    **dict.fromkeys(("dim_model_base", "query_pre_attn_scalar", "attention_multiplier", "softmax_scale"), ()),
    **dict.fromkeys(("alibi", "use_mrope", "use_qk_norm", "qk_norm", "qk_layernorm", "rope_interleaved"), (False,)),
    **dict.fromkeys(("attn_temperature_tuning", "attention_chunk_size", "attention_sink"), (0,)),
    **dict.fromkeys(("no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern"), (0, [])),
    **dict.fromkeys(("per_layer_config", "block_configs", "num_key_value_heads_per_layer"), ({}, [])),
    **dict.fromkeys(("layer_types", "sliding_window"), (0, [])),
}
"""Keys of other classes that change what is computed without a tensor, with the values (besides null) that do not.

A class that does not know them ignores them, and its model is not what the author meant. What has tensors of its own
(biases, norms, experts) is noticed by those.
"""
