"""Hugging Face folders: ``config.json`` and safetensors, converted to Megatron."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.checkpoints import claims, convert
from launcher.checkpoints.base import Architecture, Checkpoint, Damaged
from launcher.checkpoints.bounded import read_json_object
from launcher.checkpoints.buffers import without
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import as_list
from launcher.checkpoints.huggingface.config import Config, Stored
from launcher.checkpoints.huggingface.quantization.methods import settings, weights
from launcher.checkpoints.huggingface.safetensors_index import read_index, unread
from launcher.checkpoints.parts import GATE
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.core.errors import CheckpointError
from launcher.core.stage import Loading
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn

DTYPES: Mapping[str, Literal["fp32", "bf16", "fp16"]] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}

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
SHARED_EXPERT = {
    "mlp.shared_experts": ("mlp.shared_expert_gate",),
    "mlp.shared_experts.linear_fc1": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    "mlp.shared_experts.linear_fc2": ("mlp.shared_expert.down_proj",),
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
    "qwen2_moe": convert.Names(ROOTS, LAYER, ATTENTION | QWEN_EXPERTS | SHARED_EXPERT, {GATE: "weight"}),
    "qwen3": LLAMA,
    "qwen3_moe": convert.Names(ROOTS, LAYER, ATTENTION | QWEN_EXPERTS),
    "mixtral": convert.Names(ROOTS, LAYER, ATTENTION | MIXTRAL_EXPERTS),
    "gpt_neox": NEOX,
}
"""Where each supported ``model_type`` keeps its weights."""


class HuggingFaceCheckpoint(Checkpoint):
    """A folder as ``save_pretrained`` writes it. No code that comes with it is run."""

    layout = "huggingface"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        file = path / "config.json"
        values = read_json_object(file, bounds)
        config = Config(values, file)
        self._names = NAMES[config.kind]
        self._weights = weights(path, read_index(path, bounds), values, bounds)
        self._stored = self._weights.entries
        self.architecture = config.architecture(self._summary())
        claims.check(self.architecture, sum(math.prod(entry.shape) for entry in self._stored.values()), path)
        shapes = {name: self._stored[name].shape for name in without(self._stored)}
        convert.check(shapes, self.architecture, self._names, str(path))

    @staticmethod
    def matches(path: Path) -> bool:
        return path.is_dir() and (path / "config.json").is_file()

    def tokenizer(self) -> Tokenizer:
        return from_folder(self.path, self.bounds)

    def load_into(self, model: nn.Module) -> None:
        places = {name: (entry.file, entry.n_bytes) for name, entry in self._stored.items()}
        read = Loading(places.values()).counting(self._read, places)
        convert.load_into(model, self.architecture, self._names, read, str(self.path))

    def parameter(self, module: str, kind: str) -> Tensor:
        return convert.parameter(module, kind, self.architecture, self._names, self._read, str(self.path))

    def facts(self) -> dict[str, Json]:
        return self._weights.facts()

    def unread_files(self) -> list[str]:
        return unread(self.path, self.bounds)

    def fingerprint(self) -> str:
        files = {entry.file for entry in self._weights.stored.values()}
        return fingerprint(self.path, [*files, *self.path.glob("*.json"), *self.path.glob("tokenizer*")])

    def _summary(self) -> Stored:
        name = f"{self._names.roots['embedding.word_embeddings']}.weight"
        embedding = self._stored.get(name)
        if embedding is None:
            raise CheckpointError(f"{self.path}: tensor '{name}' is missing (the model needs it)")
        if embedding.dtype not in DTYPES:
            raise CheckpointError(f"{embedding.file}: weights of type {embedding.dtype} (expected F32, BF16 or F16)")
        output = f"{self._names.roots['output_layer']}.weight" in self._stored
        return Stored(embedding.shape, output, DTYPES[embedding.dtype])

    def _read(self, name: str) -> Tensor:
        return self._weights.read(name)


STACKED = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")
"""All experts of a layer in one tensor, which servers take apart."""

STANDARD = frozenset(
    (
        *("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM"),
        *("Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "GPTNeoXForCausalLM"),
    )
)
"""The classes whose tensors are known."""


def _has_own_tensors(path: Path, values: Mapping[str, Json], bounds: Bounds) -> bool:
    """Whether a server may know other tensors of a model: its class is another one, or it stacks experts."""
    kinds = as_list(values, "architectures", path / "config.json")
    if (kinds and not STANDARD.intersection(map(str, kinds))) or values.get("auto_map"):
        return True
    return any(STACKED.search(name) for name in read_index(path, bounds))


def known_architecture(path: Path, bounds: Bounds) -> Architecture | None:
    """Return the architecture of a folder that other programs serve; None for one that is not read here.

    Raises `Damaged` for tensors that contradict ``config.json``: no program computes what was meant.
    """
    try:
        return HuggingFaceCheckpoint(path, bounds).architecture
    except Damaged:
        values = read_json_object(path / "config.json", bounds)
        if settings(path, values, bounds).method is None and not _has_own_tensors(path, values, bounds):
            raise
    except CheckpointError:
        pass
    return None
