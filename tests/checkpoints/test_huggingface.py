"""Hugging Face folders: logits equal to transformers' own, for every supported architecture and layout."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from launcher.checkpoints import detect
from launcher.checkpoints.finite import is_finite
from launcher.core import stage
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import loading, source
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits, parallel_logits

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}
SHARED = {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "llama_tied": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True, head_dim=16),
    "llama_biased": lambda: LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "llama3": lambda: LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "llama_linear": lambda: LlamaConfig(
        **GROUPED, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    ),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen2_moe": lambda: Qwen2MoeConfig(**GROUPED, **EXPERTS, **SHARED),
    "qwen2_moe_normalized": lambda: Qwen2MoeConfig(**GROUPED, **EXPERTS, **SHARED, norm_topk_prob=True, qkv_bias=False),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=16),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **GROUPED, **EXPERTS, num_experts=4, moe_intermediate_size=24, norm_topk_prob=True, head_dim=8
    ),
    "qwen3_moe_raw": lambda: Qwen3MoeConfig(
        **GROUPED, **EXPERTS, num_experts=4, moe_intermediate_size=24, norm_topk_prob=False, head_dim=8
    ),
    "mixtral": lambda: MixtralConfig(**GROUPED, **EXPERTS, num_local_experts=4),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, rotary_pct=0.5),
    "gpt_neox_serial": lambda: GPTNeoXConfig(**SIZES, use_parallel_residual=False),
}


def saved(name: str, folder: Path, **how: Any) -> torch.Tensor:
    """Save a random model of this kind and return its logits."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, **how)
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    expected = saved(name, tmp_path)
    assert detect(tmp_path).layout == "huggingface"
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parallelism"),
    [
        ("llama_tied", Parallelism(tensor=2, pipeline=2)),
        pytest.param("qwen2", Parallelism(tensor=2), marks=pytest.mark.soak),
        ("gpt_neox", Parallelism(pipeline=2)),
        ("mixtral", Parallelism(tensor=2)),
        pytest.param("qwen3_moe", Parallelism(tensor=2), marks=pytest.mark.soak),
        ("qwen3_moe", Parallelism(tensor=2, expert=2)),
        ("qwen2_moe", Parallelism(tensor=2, expert=2)),
        pytest.param("qwen2_moe", Parallelism(tensor=2, pipeline=2), marks=pytest.mark.soak),
    ],
    ids=[
        *("llama-tp2-pp2", "qwen2-tp2", "gpt_neox-pp2", "mixtral-tp2", "qwen3_moe-tp2", "qwen3_moe-ep2"),
        *("qwen2_moe-ep2", "qwen2_moe-tp2-pp2"),
    ],
)
def test_logits_are_the_same_over_ranks(name: str, parallelism: Parallelism, tmp_path: Path) -> None:
    expected = saved(name, tmp_path / "model")
    found = parallel_logits(tmp_path / "model", parallelism)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_that_are_none_are_refused_by_both_engines(dtype: torch.dtype, tmp_path: Path) -> None:
    """In fp16, a number that bf16 can hold may be infinite."""
    saved("llama", tmp_path)
    stored, name = load_file(tmp_path / "model.safetensors"), "model.layers.1.mlp.down_proj.weight"
    stored[name][3, 5] = float("nan") if dtype == torch.float32 else 1e5
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    kind = str(dtype).removeprefix("torch.")
    what = rf"holds 1 numbers that are NaN or infinite in {kind}, of 1,536 \(expected finite weights\)"
    with pytest.raises(CheckpointError, match=rf"'{re.escape(name)}' {what}"):
        loading.load(source.read(tmp_path), dtype, torch.device("cpu"))
    if dtype == torch.float32:
        with pytest.raises(CheckpointError, match=rf"'decoder\.layers\.1\.mlp\.linear_fc2\.weight' {what}"):
            loaded(tmp_path)


def test_sums_that_overflow_are_no_fault() -> None:
    assert is_finite(torch.full((64,), 60000.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))


def test_several_files_are_one_checkpoint(tmp_path: Path) -> None:
    expected = saved("llama", tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


def test_loading_tells_of_every_byte_and_file(tmp_path: Path) -> None:
    saved("llama", tmp_path, max_shard_size="20KB")
    with stage.board() as board:
        loaded(tmp_path)
    told, files = board.stage, list(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert told.done == told.total
    assert (told.unit, told.note) == ("bytes", f"file {len(files)} of {len(files)}")


def test_opening_says_the_type_of_the_weights(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(CONFIGS["llama"]()).to(torch.bfloat16).save_pretrained(tmp_path)
    assert detect(tmp_path).architecture.dtype == "bf16"


def test_the_old_spelling_of_rotary_scaling_is_read(tmp_path: Path) -> None:
    saved("llama3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    new = detect(tmp_path).architecture
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = detect(tmp_path).architecture
    assert old.rotary_base == new.rotary_base
    assert old.rope_scaling is not None
    assert old.rope_scaling["factor"] == 4.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "gemma2"}, r"config.json: model_type is 'gemma2' \(supported: llama"),
        ({"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "expected a ...ForCausalLM"),
        ({"quantization_config": {"quant_method": "quark"}}, "quantization_config is set"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is True and mlp_bias False"),
        ({"hidden_size": None}, "hidden_size is null"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types is \[.*\], which llama models ignore"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=complaint):
        detect(tmp_path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="its header promises"):
        detect(tmp_path)
    file.write_bytes(b"\x00" * 4)
    with pytest.raises(CheckpointError, match="no safetensors header"):
        detect(tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle, which is not loaded"):
        detect(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"'model.layers.2\..* is missing"):
        loaded(tmp_path)


def stored_also(folder: Path, **tensors: torch.Tensor) -> None:
    """Add tensors to the weights of a folder."""
    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.layers.0.self_attn.o_proj.bias"),
        ("llama", "model.layers.1.mlp.down_proj.bias"),
        ("llama", "model.layers.2.input_layernorm.weight"),
        ("llama", "lm_head.bias"),
        ("qwen2", "model.layers.1.self_attn.q_norm.weight"),
        ("gpt_neox", "gpt_neox.layers.0.attention.dense.scale"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.4.w1.weight"),
    ],
)
def test_a_tensor_without_a_place_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    stored_also(tmp_path, **{name: torch.ones(32)})
    with pytest.raises(CheckpointError, match=f"tensor '{re.escape(name)}' has no place in the model"):
        detect(tmp_path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models on disk, of every kind that has names of its own, each with a copy of its weights."""
    made = {}
    for kind in ("llama_tied", "qwen3_moe", "mixtral", "gpt_neox"):
        folder = tmp_path_factory.mktemp(kind)
        saved(kind, folder)
        shutil.copy(folder / "model.safetensors", folder / "whole")
        made[kind] = folder
    return made


NEW_NAMES: list[Callable[[str], str]] = [
    lambda name: f"{name}_scale",
    lambda name: f"other.{name}",
    lambda name: re.sub(r"\d+", "7", name),
    lambda name: name.replace("weight", "bias"),
    lambda name: name.replace(".", "_", 1),
]


@given(data=st.data())
def test_whatever_else_is_stored_is_refused_and_whatever_lacks_is_named(data: st.DataObject, stored: Any) -> None:
    folder = stored[data.draw(st.sampled_from(sorted(stored)))]
    tensors = load_file(folder / "whole")
    name = data.draw(st.sampled_from(sorted(tensors)))
    other = data.draw(st.sampled_from(NEW_NAMES))(name)
    lacks = data.draw(st.booleans())
    changed = {key: value for key, value in tensors.items() if key != name or not lacks} | {
        other: tensors[name].clone()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    if changed.keys() == tensors.keys():
        assert detect(folder)
        return
    named = (
        f"tensor '{name}' is missing|the output layer is missing" if lacks else f"tensor '{re.escape(other)}' has no"
    )
    with pytest.raises(CheckpointError, match=named) as caught:
        detect(folder)
    assert "\n" not in str(caught.value)


def test_buffers_of_older_versions_are_no_tensors_without_a_place(tmp_path: Path) -> None:
    expected = saved("gpt_neox", tmp_path)
    stored_also(
        tmp_path,
        **{
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2),
        },
    )
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


def test_a_stored_output_layer_is_used_though_the_config_ties_it(tmp_path: Path) -> None:
    saved("llama_tied", tmp_path)
    stored_also(tmp_path, **{"lm_head.weight": torch.randn(64, 32, generator=torch.Generator().manual_seed(3))})
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(TOKENS).logits
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(CheckpointError, match="has shape"):
        loaded(tmp_path)


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    first = detect(tmp_path).fingerprint()
    assert first.startswith("sha256:")
    assert detect(tmp_path).fingerprint() == first
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert detect(tmp_path).fingerprint() != first
