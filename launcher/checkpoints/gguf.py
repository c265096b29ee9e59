"""GGUF files of Llama-like models, dequantised and converted to Megatron."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.checkpoints import convert
from launcher.checkpoints.base import Architecture, Checkpoint, NotComputed
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.gguf_keys import check as check_keys
from launcher.checkpoints.gguf_tokenizer import tokenizer_of
from launcher.checkpoints.hf_tokenizer import HuggingFaceTokenizer
from launcher.core import Json
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUPPORTED = ("llama", "qwen2", "qwen3")
MAGIC = b"GGUF"
DTYPES: dict[str, Literal["fp32", "bf16", "fp16"]] = {"F16": "fp16", "BF16": "bf16"}

NAMES = convert.Names(
    roots={
        "embedding.word_embeddings": "token_embd",
        "decoder.final_layernorm": "output_norm",
        "output_layer": "output",
    },
    layer="blk.{layer}.",
    layers={
        "input_layernorm": ("attn_norm",),
        "self_attention.linear_qkv": ("attn_q", "attn_k", "attn_v"),
        "self_attention.q_layernorm": ("attn_q_norm",),
        "self_attention.k_layernorm": ("attn_k_norm",),
        "self_attention.linear_proj": ("attn_output",),
        "pre_mlp_layernorm": ("ffn_norm",),
        "mlp.linear_fc1": ("ffn_gate", "ffn_up"),
        "mlp.linear_fc2": ("ffn_down",),
    },
)


FACTORS = "rope_freqs.weight"
"""Factors of the rotary frequencies: refused unless they are all 1."""


class GGUFCheckpoint(Checkpoint):
    """One ``.gguf`` file. Weights are computed with in full precision, whatever they were quantised to."""

    layout = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        about = path.stat()
        self._reader, self._fields = _opened(path, about.st_mtime_ns, about.st_size)
        self.architecture = _architecture(self._fields, self._tensors, path)
        convert.check(set(self._tensors) - {FACTORS}, self.architecture, NAMES, str(path))

    @staticmethod
    def matches(path: Path) -> bool:
        return path.is_file() and (path.suffix == ".gguf" or _starts_with_magic(path))

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def tokenizer(self) -> HuggingFaceTokenizer:
        return tokenizer_of(self._fields, self.path)

    def load_into(self, model: nn.Module) -> None:
        convert.load_into(model, self.architecture, NAMES, self._read, str(self.path))

    def fingerprint(self) -> str:
        return fingerprint(self.path.parent, [self.path])

    def _read(self, name: str) -> Tensor:
        """Return a whole tensor in float32, with Hugging Face's order of channels."""
        import torch
        from gguf import dequantize

        stored = self._tensors[name]
        tensor = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
        if self._fields["general.architecture"] == "llama" and (".attn_q." in name or ".attn_k." in name):
            return _unpermute(tensor, self.architecture.kv_channels)
        return tensor


@lru_cache(maxsize=2)
def _opened(path: Path, changed_ns: int, size: int) -> tuple[Any, dict[str, Any]]:
    """Read the file's header once, seconds for a large vocabulary, however often the same file is opened."""
    if not _starts_with_magic(path):
        raise CheckpointError(f"{path}: does not start with 'GGUF' (expected a GGUF file)")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: a damaged or incomplete GGUF file: {error}") from error
    return reader, _fields(reader, path)


def _unpermute(tensor: Tensor, channels: int) -> Tensor:
    """Undo llama.cpp's order of a head's channels (pairs next to each other) for rotary halves."""
    heads = tensor.shape[0] // channels
    return tensor.reshape(heads, channels // 2, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _starts_with_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC


def _fields(reader: Any, path: Path) -> dict[str, Json]:
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    if kind not in SUPPORTED:
        raise NotComputed(f"{path}: general.architecture is {kind!r} (supported: {', '.join(SUPPORTED)})")
    return fields


def _architecture(fields: dict[str, Json], tensors: dict[str, Any], path: Path) -> Architecture:
    kind = fields["general.architecture"]

    def get(key: str, default: Json = None) -> Any:
        value = fields.get(f"{kind}.{key}", default)
        if value is None:
            raise CheckpointError(f"{path}: {kind}.{key} is missing (expected a complete {kind} model)")
        return value

    _refuse_unsupported(fields, tensors, kind, path)
    hidden, heads = get("embedding_length"), get("attention.head_count")
    channels = get("attention.key_length", hidden // heads)
    return Architecture(
        num_layers=get("block_count"),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=get("attention.head_count_kv", heads),
        kv_channels=channels,
        ffn_hidden_size=get("feed_forward_length"),
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        context_length=get("context_length"),
        norm_epsilon=float(get("attention.layer_norm_rms_epsilon")),
        qkv_bias="blk.0.attn_q.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        rotary_base=float(get("rope.freq_base", 10000.0)),
        rotary_percent=get("rope.dimension_count", channels) / channels,
        rope_scaling=_rope_scaling(fields, kind, path),
        tied="output.weight" not in tensors,
        sliding_window=fields.get(f"{kind}.attention.sliding_window") or None,
        dtype=DTYPES.get(tensors["token_embd.weight"].tensor_type.name, "fp32"),
    )


def _refuse_unsupported(fields: dict[str, Json], tensors: dict[str, Any], kind: str, path: Path) -> None:
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is missing (is it one part of a split file?)")
    if fields.get(f"{kind}.expert_count"):
        raise NotComputed(f"{path}: a mixture of experts (expected a dense model; use its Hugging Face folder)")
    check_keys(fields, kind, path)
    if FACTORS in tensors and (tensors[FACTORS].data != 1).any():
        raise CheckpointError(
            f"{path}: Llama 3.1 rotary factors (rope_freqs) are not read; use its Hugging Face folder"
        )


def _rope_scaling(fields: dict[str, Json], kind: str, path: Path) -> dict[str, Json] | None:
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    if scaling == "none":
        return None
    if scaling != "linear":
        raise NotComputed(f"{path}: {kind}.rope.scaling.type is {scaling!r} (supported: none, linear)")
    return {"rope_type": "linear", "factor": float(fields[f"{kind}.rope.scaling.factor"])}
