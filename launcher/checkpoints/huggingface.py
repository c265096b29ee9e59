"""Hugging Face folders: ``config.json`` and safetensors, converted to Megatron."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.checkpoints import convert
from launcher.checkpoints.base import Architecture, Checkpoint
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import as_list, number, positive, section
from launcher.checkpoints.hf_tokenizer import HuggingFaceTokenizer, from_folder, read_json
from launcher.checkpoints.safetensors_index import Entry, read_index, read_tensor
from launcher.core import Json
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "squared_relu"]
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "squared_relu",
}
DTYPES: Mapping[str, Literal["fp32", "bf16", "fp16"]] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}

SCALING: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The supported kinds of rotary scaling besides ``default``, with the numbers that each needs."""

ROOTS = {
    "embedding.word_embeddings": "model.embed_tokens",
    "decoder.final_layernorm": "model.norm",
    "output_layer": "lm_head",
}
ATTENTION = {
    "input_layernorm": ("input_layernorm",),
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.q_layernorm": ("self_attn.q_norm",),
    "self_attention.k_layernorm": ("self_attn.k_norm",),
    "self_attention.linear_proj": ("self_attn.o_proj",),
    "pre_mlp_layernorm": ("post_attention_layernorm",),
}
DENSE = {"mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"), "mlp.linear_fc2": ("mlp.down_proj",)}
QWEN_EXPERTS = {
    "mlp.router": ("mlp.gate",),
    "mlp.experts.local_experts.{expert}.linear_fc1": (
        "mlp.experts.{expert}.gate_proj",
        "mlp.experts.{expert}.up_proj",
    ),
    "mlp.experts.local_experts.{expert}.linear_fc2": ("mlp.experts.{expert}.down_proj",),
}
MIXTRAL_EXPERTS = {
    "mlp.router": ("block_sparse_moe.gate",),
    "mlp.experts.local_experts.{expert}.linear_fc1": (
        "block_sparse_moe.experts.{expert}.w1",
        "block_sparse_moe.experts.{expert}.w3",
    ),
    "mlp.experts.local_experts.{expert}.linear_fc2": ("block_sparse_moe.experts.{expert}.w2",),
}
LAYER = "model.layers.{layer}."
NEOX = convert.Names(
    roots={
        "embedding.word_embeddings": "gpt_neox.embed_in",
        "decoder.final_layernorm": "gpt_neox.final_layer_norm",
        "output_layer": "embed_out",
    },
    layer="gpt_neox.layers.{layer}.",
    layers={
        "input_layernorm": ("input_layernorm",),
        "self_attention.linear_qkv": ("attention.query_key_value",),
        "self_attention.linear_proj": ("attention.dense",),
        "pre_mlp_layernorm": ("post_attention_layernorm",),
        "mlp.linear_fc1": ("mlp.dense_h_to_4h",),
        "mlp.linear_fc2": ("mlp.dense_4h_to_h",),
    },
)
LLAMA = convert.Names(ROOTS, LAYER, ATTENTION | DENSE)
NAMES: Mapping[str, convert.Names] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "qwen3_moe": convert.Names(ROOTS, LAYER, ATTENTION | QWEN_EXPERTS),
    "mixtral": convert.Names(ROOTS, LAYER, ATTENTION | MIXTRAL_EXPERTS),
    "gpt_neox": NEOX,
}
"""Where each supported ``model_type`` keeps its weights."""


class HuggingFaceCheckpoint(Checkpoint):
    """A folder as ``save_pretrained`` writes it. No code that comes with it is run."""

    layout = "huggingface"

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "config.json"
        config = Config(read_json(file), file)
        config.refuse_unsupported()
        self._stored = read_index(path)
        self._names = NAMES[config.kind]
        self.architecture = config.architecture(self._stored, self._names)

    @staticmethod
    def matches(path: Path) -> bool:
        return path.is_dir() and (path / "config.json").is_file()

    def tokenizer(self) -> HuggingFaceTokenizer:
        return from_folder(self.path)

    def load_into(self, model: nn.Module) -> None:
        convert.load_into(model, self.architecture, self._names, self._read, str(self.path))

    def fingerprint(self) -> str:
        weights = {entry.file for entry in self._stored.values()}
        return fingerprint(self.path, [*weights, *self.path.glob("*.json"), *self.path.glob("tokenizer*")])

    def _read(self, name: str) -> Tensor:
        return read_tensor(self._stored[name], name)


class Config:
    """A parsed ``config.json``, with the old and the new spellings of its keys."""

    def __init__(self, values: Mapping[str, Json], file: Path) -> None:
        self.values = values
        self.file = file
        self.kind = str(values.get("model_type"))

    def get(self, key: str, default: Json = None) -> Any:
        """Return a value that must be there unless it has a default; null counts as absent."""
        value = self.values.get(key)
        if value is None and default is None:
            raise CheckpointError(f"{self.file}: {key} is missing (expected the configuration of a {self.kind} model)")
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        return number({key: self.get(key, default)}, key, self.file)

    def real(self, key: str, default: float | None = None) -> float:
        """Return a positive number."""
        return positive({key: self.get(key, default)}, key, self.file, math.nan)

    def refuse_unsupported(self) -> None:
        """Raise `CheckpointError` for what this program would compute wrongly."""
        if self.kind not in NAMES:
            raise CheckpointError(f"{self.file}: model_type is {self.kind!r} (supported: {', '.join(NAMES)})")
        kinds = as_list(self.values, "architectures", self.file)
        if kinds and not str(kinds[0]).endswith("ForCausalLM"):
            raise CheckpointError(f"{self.file}: architectures is {kinds} (expected a ...ForCausalLM)")
        for key in ("quantization_config", "sliding_window_pattern", "mlp_only_layers"):
            if self.values.get(key):
                raise CheckpointError(f"{self.file}: {key} is set, which the megatron engine does not compute")
        if self.values.get("decoder_sparse_step", 1) != 1:
            raise CheckpointError(f"{self.file}: decoder_sparse_step is not 1 (expected experts in every layer)")

    def architecture(self, stored: Mapping[str, Entry], names: convert.Names) -> Architecture:
        """Return the architecture of these values and of the tensors that are ``stored``."""
        embedding = stored.get(f"{names.roots['embedding.word_embeddings']}.weight")
        if embedding is None:
            raise CheckpointError(f"{self.file.parent}: no tensor '{names.roots['embedding.word_embeddings']}.weight'")
        if embedding.dtype not in DTYPES:
            raise CheckpointError(f"{embedding.file}: weights of type {embedding.dtype} (expected F32, BF16 or F16)")
        make: Callable[[Any, Any], Architecture] = self._neox if self.kind == "gpt_neox" else self._llama
        return make(embedding, f"{names.roots['output_layer']}.weight" in stored)

    def _llama(self, embedding: Entry, untied: bool) -> Architecture:
        hidden, heads = self._width(embedding), self.whole("num_attention_heads")
        bias = self._bias()
        return Architecture(
            num_layers=self.whole("num_hidden_layers"),
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=self.whole("num_key_value_heads", heads),
            kv_channels=self.whole("head_dim", max(1, hidden // heads)),
            ffn_hidden_size=self.whole("intermediate_size"),
            vocab_size=embedding.shape[0],
            context_length=self.whole("max_position_embeddings"),
            norm_epsilon=self.real("rms_norm_eps"),
            activation=self._activation(),
            bias=bias,
            qkv_bias=bias or self.kind == "qwen2",
            qk_norm=self.kind in ("qwen3", "qwen3_moe"),
            rotary_base=self._rope("rope_theta", 10000.0),
            rotary_percent=self._rope("partial_rotary_factor", 1.0, most=1.0),
            rope_scaling=self._rope_scaling(),
            tied=self._tied(untied),
            sliding_window=self._window(),
            num_experts=self._experts(),
            experts_per_token=self.whole("num_experts_per_tok") if self._experts() else 0,
            expert_ffn_hidden_size=self.whole("moe_intermediate_size", self.whole("intermediate_size")),
            normalize_expert_weights=self.kind != "qwen3_moe" or bool(self.get("norm_topk_prob", False)),
            dtype=DTYPES[embedding.dtype],
        )

    def _neox(self, embedding: Entry, untied: bool) -> Architecture:
        hidden, heads = self._width(embedding), self.whole("num_attention_heads")
        if not self.get("attention_bias", True):
            raise CheckpointError(f"{self.file}: attention_bias is false (expected true for gpt_neox)")
        return Architecture(
            num_layers=self.whole("num_hidden_layers"),
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=heads,
            kv_channels=max(1, hidden // heads),
            ffn_hidden_size=self.whole("intermediate_size"),
            vocab_size=embedding.shape[0],
            context_length=self.whole("max_position_embeddings"),
            normalization="LayerNorm",
            norm_epsilon=self.real("layer_norm_eps", 1e-5),
            gated=False,
            activation=self._activation(),
            bias=True,
            qkv_bias=True,
            rotary_base=self._rope("rope_theta", self.real("rotary_emb_base", 10000.0)),
            rotary_percent=self._rope("partial_rotary_factor", self.real("rotary_pct", 0.25), most=1.0),
            rope_scaling=self._rope_scaling(),
            tied=self._tied(untied),
            parallel_residual=bool(self.get("use_parallel_residual", True)),
            dtype=DTYPES[embedding.dtype],
        )

    def _activation(self) -> Activation:
        name = str(self.get("hidden_act", "silu"))
        if name not in ACTIVATIONS:
            raise CheckpointError(f"{self.file}: hidden_act is {name!r} (supported: {', '.join(ACTIVATIONS)})")
        return ACTIVATIONS[name]

    def _bias(self) -> bool:
        """Return whether every linear layer has a bias; Megatron has no switch for those of the output projection."""
        attention, mlp = bool(self.get("attention_bias", False)), bool(self.get("mlp_bias", False))
        if attention != mlp:
            raise CheckpointError(
                f"{self.file}: attention_bias is {attention} and mlp_bias {mlp} (expected both the same)"
            )
        return attention

    def _experts(self) -> int:
        if self.kind not in ("mixtral", "qwen3_moe"):
            return 0
        return self.whole("num_local_experts" if "num_local_experts" in self.values else "num_experts")

    def _tied(self, untied: bool) -> bool:
        """Return whether the output layer is the embedding; a stored output layer does not untie what config ties."""
        tied = bool(self.get("tie_word_embeddings", False))
        if not tied and not untied:
            raise CheckpointError(f"{self.file.parent}: the output layer is missing (the config does not tie it)")
        return tied

    def _window(self) -> int | None:
        """Return the sliding window if every layer has it, None if none has; `CheckpointError` for a mixture."""
        kinds = {str(kind) for kind in as_list(self.values, "layer_types", self.file)}
        window = self.values.get("sliding_window")
        used = self.values.get("use_sliding_window", self.kind in ("mistral", "mixtral"))
        if len(kinds) > 1:
            raise CheckpointError(f"{self.file}: layer_types mixes {', '.join(sorted(kinds))} (expected one kind)")
        if kinds == {"full_attention"} or not window or not used:
            return None
        if not kinds and self.values.get("max_window_layers", 0) and self.kind.startswith("qwen"):
            raise CheckpointError(f"{self.file}: max_window_layers mixes kinds of attention (expected one kind)")
        return self.whole("sliding_window")

    def _width(self, embedding: Entry) -> int:
        """Return the hidden size, compared with what is stored before a model of another size is built."""
        hidden, shape = self.whole("hidden_size"), list(embedding.shape)
        if len(shape) != 2 or shape[1] != hidden:
            raise CheckpointError(f"{self.file}: hidden_size is {hidden}; the stored embedding has shape {shape}")
        return hidden

    def _rope(self, key: str, default: float, most: float = math.inf) -> float:
        """Return a rotary value: from ``rope_parameters`` (transformers 5) or from the top level."""
        nested = section(self.values, "rope_parameters", self.file)
        return positive({key: nested.get(key, self.values.get(key))}, key, self.file, default, most)

    def _rope_scaling(self) -> Mapping[str, Json] | None:
        key = "rope_parameters" if self.values.get("rope_parameters") else "rope_scaling"
        scaling = section(self.values, key, self.file)
        kind = str(scaling.get("rope_type", scaling.get("type", "default")))
        if kind == "default":
            return None
        if kind not in SCALING:
            raise CheckpointError(f"{self.file}: rope_type is {kind!r} (supported: default, {', '.join(SCALING)})")
        for name in SCALING[kind]:
            positive(scaling, name, self.file, math.nan)
        return {**scaling, "rope_type": kind}
