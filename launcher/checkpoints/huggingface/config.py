"""Read a Hugging Face ``config.json`` as transformers' configuration classes do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.checkpoints.base import Architecture, Damaged, NotComputed
from launcher.checkpoints.fields import as_list, flag, number, positive, section
from launcher.checkpoints.file_names import ADAPTER
from launcher.checkpoints.huggingface.class_defaults import CLASSES, FOREIGN, NULLABLE, THETA
from launcher.checkpoints.parts import refuse_uncomputed
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

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

SCALING: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The supported kinds of rotary scaling, with the numbers that each needs."""

ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
FULL, SLIDING = "full_attention", "sliding_attention"
QWEN_MOE = ("qwen2_moe", "qwen3_moe")


@dataclass(frozen=True)
class Rope:
    """The base of the rotary frequencies, the share of channels that is turned, and how frequencies are scaled."""

    theta: float
    share: float
    scaling: Mapping[str, Json] | None


@dataclass(frozen=True)
class Stored:
    """What the stored tensors say: rows and width of the embedding, whether there is an output layer, the type."""

    embedding: tuple[int, ...]
    output: bool
    dtype: Literal["fp32", "bf16", "fp16"]


class Config:
    """A parsed ``config.json``: a key that it leaves out has the default of the model's class."""

    def __init__(self, values: Mapping[str, Json], file: Path) -> None:
        self.values = values
        self.file = file
        self.kind = str(values.get("model_type"))
        if self.kind not in CLASSES:
            raise NotComputed(f"{file}: model_type is {self.kind!r:.200} (supported: {', '.join(CLASSES)})")
        self._class = CLASSES[self.kind]

    def get(self, key: str, default: Json = None) -> Any:
        """Return a value, or the class's default; null only where the class takes null. ``default`` is for aliases."""
        if key not in self.values:
            return self._class.get(key, default)
        value = self.values[key]
        if value is None and key in self._class and key not in NULLABLE[self.kind]:
            raise CheckpointError(f"{self.file}: {key} is null (expected a value, as {self.kind} models need)")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number; ``default`` where the value is null."""
        value = self.get(key)
        return number({key: default if value is None else value}, key, self.file)

    def real(self, key: str) -> float:
        """Return a positive number."""
        return positive({key: self.get(key)}, key, self.file, math.nan)

    def flag(self, key: str) -> bool:
        """Return a boolean; false where the class does not know the key."""
        return flag({key: self.get(key)}, key, self.file)

    def refuse(self, key: str, expected: str) -> NotComputed:
        """Return the refusal of a value that the megatron engine does not compute."""
        return NotComputed(f"{self.file}: {key} is {self.get(key)!r:.200} (expected {expected})")

    def architecture(self, stored: Stored) -> Architecture:
        """Return the architecture of these values and of the tensors that are ``stored``.

        Raises `NotComputed` for what the megatron engine would compute wrongly, and `CheckpointError` for what fits
        neither the class nor the tensors.
        """
        refuse_unsupported(self.values, self.file)
        self._refuse_unlike(stored)
        found = self._neox(stored) if self.kind == "gpt_neox" else self._llama(stored)
        refuse_uncomputed(found, self.file)
        return found

    def _llama(self, stored: Stored) -> Architecture:
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads")
        bias, experts, rope = self._bias(), self._experts(), self._rope()
        shared = self.kind == "qwen2_moe"
        return Architecture(
            num_layers=self.whole("num_hidden_layers"),
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=self._groups(heads),
            kv_channels=self.whole("head_dim", hidden // heads),
            ffn_hidden_size=self.whole("intermediate_size"),
            vocab_size=stored.embedding[0],
            context_length=self.whole("max_position_embeddings"),
            norm_epsilon=self.real("rms_norm_eps"),
            activation=self._activation(),
            bias=bias,
            qkv_bias=bias or self.kind == "qwen2" or (shared and self.flag("qkv_bias")),
            qk_norm=self.kind in ("qwen3", "qwen3_moe"),
            rotary_base=rope.theta,
            rope_scaling=rope.scaling,
            tied=self._tied(stored),
            sliding_window=self._window(),
            num_experts=experts,
            experts_per_token=self.whole("num_experts_per_tok") if experts else 0,
            expert_ffn_hidden_size=self._expert_width() if experts else None,
            normalize_expert_weights=self.kind not in QWEN_MOE or self.flag("norm_topk_prob"),
            shared_expert_ffn_hidden_size=self.whole("shared_expert_intermediate_size") if shared else None,
            shared_expert_gate=shared,
            dtype=stored.dtype,
        )

    def _neox(self, stored: Stored) -> Architecture:
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads")
        if not self.flag("attention_bias"):
            raise self.refuse("attention_bias", "true")
        rope = self._rope()
        return Architecture(
            num_layers=self.whole("num_hidden_layers"),
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=heads,
            kv_channels=hidden // heads,
            ffn_hidden_size=self.whole("intermediate_size"),
            vocab_size=stored.embedding[0],
            context_length=self.whole("max_position_embeddings"),
            normalization="LayerNorm",
            norm_epsilon=self.real("layer_norm_eps"),
            gated=False,
            activation=self._activation(),
            bias=True,
            qkv_bias=True,
            rotary_base=rope.theta,
            rotary_percent=rope.share,
            rope_scaling=rope.scaling,
            tied=self._tied(stored),
            parallel_residual=self.flag("use_parallel_residual"),
            dtype=stored.dtype,
        )

    def _refuse_unlike(self, stored: Stored) -> None:
        """Compare sizes with what is stored, before a model of another size is built."""
        hidden, shape = self.whole("hidden_size"), list(stored.embedding)
        if len(shape) != 2 or shape[1] != hidden:
            raise Damaged(f"{self.file}: hidden_size is {hidden}; the stored embedding has shape {shape}")
        if "vocab_size" in self.values and self.whole("vocab_size") != shape[0]:
            size = self.whole("vocab_size")
            raise Damaged(f"{self.file}: vocab_size is {size}; the stored embedding has shape {shape}")
        heads = self.whole("num_attention_heads")
        if self.kind in ("llama", "gpt_neox") and hidden % heads:
            raise Damaged(f"{self.file}: num_attention_heads is {heads} (expected a divisor of hidden_size={hidden})")

    def _groups(self, heads: int) -> int:
        if self.kind == "qwen2_moe" and self.get("num_key_value_heads") is None:
            raise CheckpointError(f"{self.file}: num_key_value_heads is null (expected a number, such as {heads})")
        groups = self.whole("num_key_value_heads", heads)
        if heads % groups:
            raise Damaged(
                f"{self.file}: num_key_value_heads is {groups} (expected a divisor of num_attention_heads={heads})"
            )
        return groups

    def _activation(self) -> Activation:
        name = self.get("hidden_act")
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise self.refuse("hidden_act", f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def _bias(self) -> bool:
        """Return whether every linear layer has a bias; Megatron has no switch for those of the output projection."""
        if "attention_bias" not in self._class:
            return False
        attention, mlp = self.flag("attention_bias"), "mlp_bias" in self._class and self.flag("mlp_bias")
        if attention != mlp:
            raise NotComputed(f"{self.file}: attention_bias is {attention} and mlp_bias {mlp} (expected both the same)")
        return attention

    def _experts(self) -> int:
        """Return the number of experts in every layer, which has two names."""
        if self.kind not in ("mixtral", *QWEN_MOE):
            return 0
        spellings = ("num_experts",) if self.kind == "qwen2_moe" else ("num_local_experts", "num_experts")
        names = [name for name in spellings if name in self.values]
        found = {number(self.values, name, self.file) for name in names}
        if len(found) > 1:
            raise CheckpointError(f"{self.file}: num_local_experts and num_experts differ (expected one of them)")
        if self.kind in QWEN_MOE:
            self._refuse_dense_layers()
        known = "num_local_experts" if self.kind == "mixtral" else "num_experts"
        return found.pop() if found else self.whole(known)

    def _refuse_dense_layers(self) -> None:
        if as_list(self.values, "mlp_only_layers", self.file):
            raise self.refuse("mlp_only_layers", "experts in every layer")
        if self.whole("decoder_sparse_step") > 1:
            raise self.refuse("decoder_sparse_step", "1: experts in every layer")

    def _expert_width(self) -> int:
        return self.whole("intermediate_size" if self.kind == "mixtral" else "moe_intermediate_size")

    def _tied(self, stored: Stored) -> bool:
        """Return whether the output layer is the embedding: a stored one is used, even if the config ties them."""
        if not self.flag("tie_word_embeddings") and not stored.output:
            raise Damaged(f"{self.file.parent}: the output layer is missing (the config does not tie it)")
        return not stored.output

    def _window(self) -> int | None:
        """Return the sliding window if every layer has it, None if none has; `NotComputed` for a mixture."""
        if "sliding_window" not in self._class:
            return None
        used = "use_sliding_window" not in self._class or self.flag("use_sliding_window")
        window = self.whole("sliding_window") if used and self.get("sliding_window") is not None else None
        kinds = self._layer_kinds(window)
        if len(kinds) > 1 or not kinds <= {FULL, SLIDING}:
            found = ", ".join(sorted(kinds))
            key = "layer_types" if self.values.get("layer_types") else "max_window_layers"
            raise NotComputed(f"{self.file}: {key} mixes {found:.200} (expected one of {FULL}, {SLIDING})")
        contradicts = kinds == {SLIDING} if window is None else kinds == {FULL} and "layer_types" not in self._class
        if contradicts:
            raise CheckpointError(
                f"{self.file}: layer_types is {kinds.pop()} and sliding_window {window} (expected both or none)"
            )
        return window if kinds == {SLIDING} else None

    def _layer_kinds(self, window: int | None) -> set[str]:
        """Return the kinds of attention that the layers have."""
        listed = [str(kind) for kind in as_list(self.values, "layer_types", self.file)]
        layers = self.whole("num_hidden_layers")
        if listed and len(listed) != layers:
            raise CheckpointError(f"{self.file}: layer_types has {len(listed)} entries (num_hidden_layers is {layers})")
        if listed or window is None:
            return set(listed) or {FULL}
        first = self.get("max_window_layers", 0)
        if not isinstance(first, int):
            raise CheckpointError(f"{self.file}: max_window_layers is {first!r:.200} (expected a whole number)")
        if first > 0 and "max_window_layers" not in self._class:
            raise CheckpointError(
                f"{self.file}: max_window_layers is {first}, which {self.kind} models ignore (expected 0)"
            )
        if self.kind == "qwen2_moe":
            return self._every_second_layer(first, layers)
        return {SLIDING} if first <= 0 else {FULL} if first >= layers else {FULL, SLIDING}

    def _every_second_layer(self, last: int, layers: int) -> set[str]:
        """Return the kinds of attention of Qwen2-MoE: the first, third, ... of its ``last`` layers have a window."""
        if last > 0 and layers > 1:
            raise NotComputed(
                f"{self.file}: max_window_layers is {last} with num_hidden_layers {layers}: every second layer has a "
                "window (expected use_sliding_window=false)"
            )
        return {SLIDING} if last > 0 else {FULL}

    def _rope(self) -> Rope:
        """Return the rotary settings: ``rope_scaling`` goes before ``rope_parameters``, and those before other keys."""
        key = "rope_scaling" if self.values.get("rope_scaling") else "rope_parameters"
        neox = self.kind == "gpt_neox"
        theta, share = ("rotary_emb_base", "rotary_pct") if neox else ("rope_theta", "partial_rotary_factor")
        rope = {
            "rope_theta": self.values.get(theta, THETA.get(self.kind, 10000.0)),
            "partial_rotary_factor": self.values.get(share, 0.25 if neox else 1.0),
            **section(self.values, key, self.file),
        }
        empty = next((name for name in ("rope_theta", "partial_rotary_factor") if rope[name] is None), None)
        if empty:
            raise CheckpointError(f"{self.file}: {empty} is null (expected a positive number)")
        found = Rope(
            positive(rope, "rope_theta", self.file, math.nan),
            positive(rope, "partial_rotary_factor", self.file, math.nan, most=1.0),
            self._scaling(rope, key),
        )
        self._refuse_other_rope(found)
        return found

    def _refuse_other_rope(self, found: Rope) -> None:
        """Refuse what the model's class does not read: a share of the channels, and other keys of the same meaning."""
        if self.kind != "gpt_neox" and found.share != 1:
            raise CheckpointError(
                f"{self.file}: partial_rotary_factor is {found.share}, which no {self.kind} model computes (expected 1)"
            )
        used = {"rope_theta": found.theta, "partial_rotary_factor": found.share}
        for key, value in used.items() if self.kind == "gpt_neox" else ():
            if self.values.get(key, value) != value:
                raise CheckpointError(
                    f"{self.file}: {key} is {self.values[key]!r:.200} and {value} at once (expected one)"
                )

    def _scaling(self, rope: Mapping[str, Json], key: str) -> Mapping[str, Json] | None:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in tuple(SCALING):
            raise NotComputed(f"{self.file}: rope_type is {kind!r:.200} (supported: {', '.join(SCALING)})")
        unknown = sorted(set(rope) - ROPE - set(SCALING[kind]))
        if unknown:
            raise NotComputed(f"{self.file}: {key}.{unknown[0]:.200} is set (rope_type={kind} has no such key)")
        if kind == "default":
            return None
        scaling = {**rope, "rope_type": kind}
        if kind == "llama3":
            scaling.setdefault("original_max_position_embeddings", self.whole("max_position_embeddings"))
        for name in SCALING[kind]:
            positive(scaling, name, self.file, math.nan)
        return scaling


def refuse_unsupported(values: Mapping[str, Json], file: Path) -> None:
    """Raise `CheckpointError` for what no engine here computes as its author meant it.

    That is what is no plain causal language model, and keys that the model's class ignores, where they ask for
    something.
    """
    kinds = as_list(values, "architectures", file)
    if kinds and not str(kinds[0]).endswith(CAUSAL):
        raise CheckpointError(f"{file}: architectures is {kinds!r:.200} (expected a ...ForCausalLM or ...LMHeadModel)")
    if values.get("is_encoder_decoder"):
        raise CheckpointError(f"{file}: is_encoder_decoder is true (expected a decoder-only model)")
    if values.get("transformers_weights"):
        raise CheckpointError(f"{file}: transformers_weights is set (expected model.safetensors or an index)")
    if (file.parent / ADAPTER).exists():
        raise CheckpointError(f"{file.parent / ADAPTER}: an adapter is not applied (merge it into the weights first)")
    kind = str(values.get("model_type"))
    known = CLASSES.get(kind, FOREIGN)
    for key, neutral in FOREIGN.items():
        value = values.get(key)
        if value is not None and value not in neutral and key not in known and not _agrees(key, values):
            raise CheckpointError(
                f"{file}: {key} is {value!r:.200}, which {kind} models ignore "
                "(expected none; remove the key if it means nothing)"
            )


CAUSAL = ("ForCausalLM", "LMHeadModel")


def _agrees(key: str, values: Mapping[str, Json]) -> bool:
    """Whether a key that the class does not know says what the class does anyway."""
    if key == "sliding_window":
        return values.get("use_sliding_window") is False
    kinds = values.get("layer_types")
    if key == "layer_types" and isinstance(kinds, list):
        windowed = str(values.get("model_type")) in ("mistral", "mixtral", "qwen3_moe")
        return windowed or set(map(str, kinds)) == {FULL}
    return False
