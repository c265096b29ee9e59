"""A config.json is read as transformers' own classes read it, with the same defaults."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from launcher.checkpoints import detect
from launcher.checkpoints.base import Architecture, NotComputed
from launcher.checkpoints.huggingface import class_defaults
from launcher.checkpoints.huggingface.config import ACTIVATIONS, Config, Stored
from launcher.core.errors import CheckpointError
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits

KINDS = list(class_defaults.CLASSES)
ROWS = 64
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 2e-5,
    "rope_theta": 5000.0,
    "rotary_emb_base": 5000,
    "rotary_pct": 0.5,
    "use_parallel_residual": True,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 0,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "qkv_bias": True,
    "shared_expert_intermediate_size": 40,
}
READ_BESIDE = {
    **dict.fromkeys(KINDS, ("rope_theta",)),
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "qwen2": ("rope_theta", "head_dim"),
    "qwen2_moe": ("rope_theta", "head_dim"),
    "qwen3_moe": ("rope_theta", "head_dim"),
}
"""Keys that a class has no field for and yet reads."""

FIELDS = {kind: {f.name: f for f in dataclasses.fields(CONFIG_MAPPING[kind])} for kind in KINDS}
BASE = {field.name for field in dataclasses.fields(PreTrainedConfig)}


def values(kind: str) -> dict[str, Any]:
    """Return the configuration of a small model, with every key that this kind of model reads."""
    known = {*FIELDS[kind], *READ_BESIDE[kind]}
    made = {key: value for key, value in SIZES.items() if key in known}
    if kind == "gpt_neox":
        made |= {"attention_bias": True, "hidden_act": "gelu"}
    if kind == "qwen2_moe":  # of several layers every second one has a window
        made |= {"num_hidden_layers": 1, "max_window_layers": 1}
    return made | {"model_type": kind, "architectures": [f"{kind}ForCausalLM"]}


def ours(config: dict[str, Any], hidden: int) -> Architecture:
    stored = Stored((config.get("vocab_size", ROWS), hidden), True, "fp32")
    return Config(config, Path("config.json")).architecture(stored)


def either(read: Callable[[], Architecture]) -> Architecture | str:
    """Return what was read, or why it was refused."""
    try:
        return read()
    except CheckpointError as refused:
        return str(refused)


def of_transformers(c: Any) -> dict[str, Any]:
    """Return what an object of transformers' class says, in the words of `Architecture`."""
    heads, rope, experts = c.num_attention_heads, c.rope_parameters, experts_of(c)
    said = {
        "num_layers": c.num_hidden_layers,
        "hidden_size": c.hidden_size,
        "num_attention_heads": heads,
        "num_query_groups": getattr(c, "num_key_value_heads", heads),
        "kv_channels": getattr(c, "head_dim", None) or c.hidden_size // heads,
        "ffn_hidden_size": c.intermediate_size,
        "context_length": c.max_position_embeddings,
        "norm_epsilon": c.layer_norm_eps if c.model_type == "gpt_neox" else c.rms_norm_eps,
        "activation": ACTIVATIONS[c.hidden_act],
        "bias": c.attention_bias if c.model_type in ("llama", "gpt_neox") else False,
        "rotary_base": rope["rope_theta"],
        "rotary_percent": rope.get("partial_rotary_factor", 1.0),
        "sliding_window": window(c),
        "num_experts": experts,
    }
    if experts:
        said["experts_per_token"] = c.num_experts_per_tok
        said["expert_ffn_hidden_size"] = getattr(c, "moe_intermediate_size", c.intermediate_size)
        said["normalize_expert_weights"] = getattr(c, "norm_topk_prob", True)
        said["shared_expert_ffn_hidden_size"] = getattr(c, "shared_expert_intermediate_size", None)
    if c.model_type == "qwen2_moe":
        said["qkv_bias"] = c.qkv_bias
    return said


def experts_of(c: Any) -> int:
    return int(getattr(c, "num_local_experts", getattr(c, "num_experts", 0)))


def window(c: Any) -> int | None:
    kinds = set(getattr(c, "layer_types", None) or [])
    return None if kinds == {"full_attention"} else getattr(c, "sliding_window", None)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_installed_class(kind: str) -> None:
    """What fails here is to be copied into class_defaults.py."""
    own = {name: field.default for name, field in FIELDS[kind].items() if name not in BASE}
    assert dict(class_defaults.CLASSES[kind]) == own
    assert class_defaults.THETA.get(kind, 10000.0) == CONFIG_MAPPING[kind].default_theta
    takes_null = {name for name, f in FIELDS[kind].items() if type(None) in getattr(f.type, "__args__", ())}
    assert set(class_defaults.NULLABLE[kind]) == (takes_null & class_defaults.READ) - {"rope_parameters"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_class_is_read_or_known_to_be_harmless(kind: str) -> None:
    assert set(FIELDS[kind]) - BASE <= class_defaults.READ | class_defaults.HARMLESS
    assert class_defaults.READ_BASE | class_defaults.HARMLESS_BASE >= BASE
    assert not class_defaults.READ & class_defaults.HARMLESS


OTHER: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "hidden_act": "relu",
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    "use_sliding_window": False,
    "max_window_layers": 1,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 5,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 2,
}


def changed(key: str, value: Any) -> Any:
    if key == "max_window_layers" and value:
        return 0
    if key in OTHER:
        return OTHER[key]
    return not value if isinstance(value, bool) else value * 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_that_is_read_matters(kind: str) -> None:
    """It changes the architecture, or is refused: nothing is read and then forgotten."""
    base = values(kind)
    stored = Stored((ROWS, 32), False, "fp32")
    tied = {"tie_word_embeddings": True}
    usual = Config(base | tied, Path("c")).architecture(stored)
    for key in (set(FIELDS[kind]) & class_defaults.READ) - {"num_local_experts"}:
        other = base | tied | {key: changed(key, base.get(key))}
        if key == "tie_word_embeddings":
            other[key] = False
        found = either(partial(Config(other, Path("c")).architecture, stored))
        assert found != usual, key
        assert not isinstance(found, str) or key in found or key == "tie_word_embeddings", key


def removable(kind: str) -> list[str]:
    return [key for key in values(kind) if key not in ("model_type", "architectures")]


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KINDS for key in removable(kind)])
def test_a_key_that_is_left_out_has_the_classs_default(kind: str, key: str) -> None:
    check(kind, {name: value for name, value in values(kind).items() if name != key})


@given(st.data())
def test_whatever_is_left_out_or_null_is_as_transformers_reads_it(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    config = values(kind)
    for key in data.draw(st.sets(st.sampled_from(removable(kind)))):
        del config[key]
    for key in data.draw(st.sets(st.sampled_from(removable(kind)), max_size=2)):
        config[key] = None
    rope = data.draw(st.sampled_from(["", "rope_parameters", "rope_scaling"]))
    if rope:
        config[rope] = data.draw(st.sampled_from(ROPES))
    check(kind, config)


ROPES: list[dict[str, Any] | None] = [
    None,
    {},
    {"rope_type": "default", "rope_theta": 700.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 900.0},
]


def check(kind: str, config: dict[str, Any]) -> None:
    """Compare the two readings; what only one of them refuses must be what no model can be."""
    try:
        theirs = CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(config)))
    except Exception:  # transformers' validation raises its own
        with pytest.raises(CheckpointError):
            ours(config, 32)
        return
    found = either(lambda: ours(config, theirs.hidden_size))
    if isinstance(found, str):
        assert impossible(theirs, found), found
        return
    expected = of_transformers(theirs)
    assert {name: getattr(found, name) for name in expected} == expected
    scaling = {k: v for k, v in theirs.rope_parameters.items() if k in (found.rope_scaling or {})}
    assert theirs.rope_parameters["rope_type"] == (found.rope_scaling or {}).get("rope_type", "default")
    assert {k: v for k, v in (found.rope_scaling or {}).items() if k in scaling} == scaling


def impossible(theirs: Any, refused: str) -> bool:
    """Whether no model of this configuration can be built, or only one that the megatron engine does not compute."""
    heads, kinds = theirs.num_attention_heads, set(getattr(theirs, "layer_types", None) or [])
    channels = getattr(theirs, "head_dim", None) or theirs.hidden_size // heads
    whole = heads % (getattr(theirs, "num_key_value_heads", None) or heads) == 0 and channels > 0
    many = getattr(theirs, "num_experts_per_tok", 0) > experts_of(theirs)
    return not whole or many or len(kinds) > 1 or "is null" in refused or "is None" in refused


WITHOUT: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "rms_norm_eps", {}),
    ("llama", "num_key_value_heads", {}),
    ("llama", "tie_word_embeddings", {}),
    ("gpt_neox", "hidden_act", {}),
    ("gpt_neox", "rotary_pct", {}),
    ("qwen2", "use_sliding_window", {}),
    ("qwen3", "head_dim", {}),
    ("qwen3_moe", "moe_intermediate_size", {}),
    ("qwen3_moe", "norm_topk_prob", {}),
    ("qwen2_moe", "norm_topk_prob", {}),
    ("qwen2_moe", "shared_expert_intermediate_size", {}),
    ("qwen2_moe", "use_sliding_window", {"num_hidden_layers": 2}),
    ("qwen2_moe", "qkv_bias", {}),
    ("mixtral", "rope_theta", {}),
    ("mixtral", "sliding_window", {}),
]


@pytest.mark.parametrize(("kind", "key", "changes"), WITHOUT)
def test_logits_are_those_of_transformers_without_a_key(
    kind: str, key: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    expected = saved(kind, tmp_path, {name: v for name, v in (values(kind) | changes).items() if name != key}, TOKENS)
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


def test_mistral_without_a_window_has_that_of_its_class(tmp_path: Path) -> None:
    """A prompt longer than the class's 4096 tells a window from none."""
    config = values("mistral") | {"max_position_embeddings": 8192, "num_hidden_layers": 1}
    del config["sliding_window"]
    tokens = (torch.arange(4200) * 7 % ROWS)[None]
    expected = saved("mistral", tmp_path, config, tokens)
    assert detect(tmp_path).architecture.sliding_window == 4096
    torch.testing.assert_close(logits(loaded(tmp_path), tokens), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def saved(kind: str, folder: Path, config: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    """Save a random model, with exactly this config.json, and return the logits of what transformers reads back."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind].from_dict(dict(config)))
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    read: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return read(tokens).logits


OTHERS = {"pad_token_id", "bos_token_id", "eos_token_id", "is_decoder"}
"""Harmless keys whose values are no matter of taste: tokens of a vocabulary, and what a decoder always is."""


def unlike(value: Any) -> Any:
    return not value if isinstance(value, bool) else value * 2 or 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_harmless_keys_change_no_logit(kind: str, tmp_path: Path) -> None:
    expected = saved(kind, tmp_path, values(kind), TOKENS)
    other = {key: unlike(FIELDS[kind][key].default) for key in set(FIELDS[kind]) & class_defaults.HARMLESS - OTHERS}
    assert other
    (tmp_path / "config.json").write_text(json.dumps(values(kind) | other))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, expected, atol=0, rtol=0)
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("llama", {"clip_qkv": 8.0}, r"clip_qkv is 8.0, which llama models ignore"),
        ("llama", {"sliding_window": 16}, "sliding_window is 16, which llama models ignore"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types is full_attention and sliding_window 4"),
        ("qwen2", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping is 30.0, which qwen2 models ignore"),
        ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which no qwen2 model computes"),
        ("gpt_neox", {"rope_theta": 1.0}, "rope_theta is 1.0 and 5000.0 at once"),
        ("qwen3", {"tie_word_embeddings": "false"}, r"tie_word_embeddings is 'false' \(expected true or false\)"),
        ("qwen3_moe", {"max_window_layers": 1}, "max_window_layers is 1, which qwen3_moe models ignore"),
        ("mixtral", {"num_experts": 8}, "num_local_experts and num_experts differ"),
        ("llama", {"vocab_size": 65}, r"vocab_size is 65; the stored embedding has shape \[64, 32\]"),
    ],
)
def test_what_a_class_ignores_or_contradicts_is_refused(kind: str, change: dict[str, Any], complaint: str) -> None:
    config = Config(values(kind) | change, Path("config.json"))
    with pytest.raises(CheckpointError, match=complaint):
        config.architecture(Stored((ROWS, 32), True, "fp32"))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("llama", {"attention_bias": True}),
        ("qwen3", {"attention_bias": True}),
        ("qwen2", {"max_window_layers": 1}),
        ("qwen3_moe", {"mlp_only_layers": [1]}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("qwen2_moe", {"mlp_only_layers": [1]}),
        ("qwen2_moe", {"decoder_sparse_step": 2}),
        ("qwen2_moe", {"num_hidden_layers": 2}),
        ("llama", {"hidden_act": "gelu_python"}),
        ("mixtral", {"num_experts_per_tok": 1}),
        ("mixtral", {"num_experts_per_tok": 5}),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
    ],
)
def test_what_only_transformers_computes_is_told_apart(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(NotComputed):
        ours(values(kind) | change, 32)


def test_what_beside_null_is_neutral_is_not_refused() -> None:
    neutral = {"clip_qkv": None, "attn_logit_softcapping": 0.0, "residual_multiplier": 1.0, "use_mrope": False}
    assert ours(values("llama") | neutral | {"sliding_window": 16, "use_sliding_window": False}, 32)


def test_reading_needs_no_transformers() -> None:
    code = (
        "import sys, launcher.checkpoints.huggingface.layout; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_small_configurations_are_ones_of_transformers(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / "config.json").write_text(json.dumps(values(kind)))
        assert AutoConfig.from_pretrained(tmp_path).model_type == kind
