"""Megatron-core's configuration as an architecture, and what it must not be silent about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.megatron_config import architecture
from launcher.checkpoints.torch_dist.index import Stored
from launcher.checkpoints.torch_dist.tensor_store import TensorStore
from launcher.core.errors import CheckpointError

FILE = Path("run_config.yaml")
STORE = TensorStore(Path(), {"embedding.word_embeddings.weight": Stored((128, 32), "bfloat16")})
BASE = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "seq_length": 64}


def read(**changes: Any) -> Any:
    return architecture(BASE | changes, STORE, FILE)


def test_defaults_are_those_of_megatron() -> None:
    arch = read()
    assert (arch.ffn_hidden_size, arch.kv_channels, arch.num_query_groups) == (128, 8, 4)
    assert (arch.normalization, arch.position, arch.bias, arch.gated) == ("LayerNorm", "learned_absolute", True, False)
    assert (arch.vocab_size, arch.tied, arch.dtype) == (128, True, "bf16")


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "gelu"),
        ({"bias_activation_fusion": True, "add_bias_linear": True}, "gelu_tanh"),
        ({"bias_activation_fusion": True, "add_bias_linear": False}, "gelu"),
        ({"activation_func": {"_target_": "torch.nn.functional.silu", "_call_": False}}, "silu"),
        ({"activation_func": {"_target_": "torch._C._nn.gelu"}}, "gelu"),
        (
            {
                "activation_func": {
                    "_target_": "functools.partial",
                    "_args_": [{"_target_": "torch._C._nn.gelu"}],
                    "approximate": "tanh",
                }
            },
            "gelu_tanh",
        ),
        ({"activation_func": {"_target_": "megatron.core.activations.squared_relu"}}, "squared_relu"),
    ],
)
def test_activation_functions_go_by_their_name(changes: dict[str, Any], activation: str) -> None:
    assert read(**changes).activation == activation


def test_sliding_windows_count_the_query_itself() -> None:
    assert read(window_size=[7, 0]).sliding_window == 8
    assert read(window_size=[-1, 0]).sliding_window is None


@pytest.mark.parametrize("window", ["50", [1.5, 0], [float("inf"), 0], [7], [7, 1], [True, 0], [7, None], 7, [-2, 0]])
def test_a_window_that_is_no_pair_of_whole_numbers_is_refused(window: Any) -> None:
    with pytest.raises(CheckpointError, match=r"window_size is .* \(expected \[n, 0\]\)"):
        read(window_size=window)


FLAGS = (
    *("layernorm_zero_centered_gamma", "gated_linear_unit", "add_bias_linear", "add_qkv_bias", "qk_layernorm"),
    *("rotary_interleaved", "moe_router_pre_softmax", "bias_activation_fusion", "rope_scaling"),
)


@pytest.mark.parametrize("key", FLAGS)
@pytest.mark.parametrize("value", ["false", 1, [False]])
def test_a_flag_that_is_no_boolean_is_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is .* \\(expected true or false\\)"):
        read(**{key: value})


def test_experts_are_read() -> None:
    arch = read(num_moe_experts=8, moe_router_topk=2, moe_ffn_hidden_size=16, moe_router_pre_softmax=True)
    assert (arch.num_experts, arch.experts_per_token, arch.expert_ffn_hidden_size) == (8, 2, 16)
    assert not arch.normalize_expert_weights


@pytest.mark.parametrize("gate", [True, False])
def test_a_shared_expert_is_read(gate: bool) -> None:
    shared = {"moe_shared_expert_intermediate_size": 40, "moe_shared_expert_gate": gate, "add_bias_linear": False}
    arch = read(num_moe_experts=8, **shared)
    assert (arch.shared_expert_ffn_hidden_size, arch.shared_expert_gate) == (40, gate)


def test_rotary_scaling_has_two_spellings() -> None:
    nemo = read(position_embedding_type="rope", scale_factor=8.0, old_context_len=16).rope_scaling
    core = read(position_embedding_type="rope", rope_scaling=True, rope_scaling_factor=8.0).rope_scaling
    assert nemo["rope_type"] == core["rope_type"] == "llama3"
    assert nemo["original_max_position_embeddings"] == 16
    assert read(seq_len_interpolation_factor=2.0).rope_scaling == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"multi_latent_attention": True}, "multi_latent_attention is True"),
        ({"moe_layer_freq": [0, 1]}, r"moe_layer_freq is \[0, 1\]"),
        ({"moe_router_score_function": "sigmoid"}, "moe_router_score_function is 'sigmoid'"),
        ({"moe_shared_expert_intermediate_size": 64}, "a shared expert with biases"),
        (
            {"moe_shared_expert_intermediate_size": 64, "add_bias_linear": False},
            "a shared expert with no others to choose from",
        ),
        ({"position_embedding_type": "yarn"}, r"position_embedding_type is 'yarn' \(supported: rope"),
        ({"normalization": "L2Norm"}, "normalization is 'L2Norm'"),
        ({"activation_func": {"_target_": "os.system"}}, "activation_func is 'os.system'"),
        ({"num_layers": None}, r"num_layers is None \(expected a positive whole number\)"),
        ({"window_size": [4, 4]}, "window_size"),
        (
            {"hybrid_override_pattern": "M-M*"},
            "hybrid_override_pattern is 'M-M\\*', which the megatron engine does not",
        ),
        ({"use_mup": True}, "use_mup is True"),
        ({"apply_embedding_scaling": True}, "apply_embedding_scaling is True"),
        ({"scale_positional_embedding": True}, "scale_positional_embedding is True"),
        (
            {"_target_": "megatron.bridge.models.gemma.gemma_provider.CodeGemmaModelProvider2B"},
            "_target_ is '.*2B', whose embeddings are multiplied by .* export it to a Hugging Face folder",
        ),
        (
            {"_target_": "nemo.collections.llm.gpt.model.llama_embedding.Llama32EmbeddingConfig1B"},
            "_target_ is .* later",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=f"run_config.yaml: {complaint}"):
        read(**changes)
