"""GGUF files of the models that Megatron-core computes, dequantised and converted to Megatron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.checkpoints import claims, convert
from launcher.checkpoints.base import Architecture, Checkpoint, NotComputed
from launcher.checkpoints.bounded import shown
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import flag, number, positive
from launcher.checkpoints.gguf import rope_factors
from launcher.checkpoints.gguf.file import MAGIC, GGUFHeader, GGUFTensor, read_header
from launcher.checkpoints.gguf.keys import check as check_keys
from launcher.checkpoints.gguf.names import (
    SHARED_GATE,
    STACKED,
    SUPPORTED,
    WITH_EXPERTS,
    by_heads,
    is_joined,
    is_turned,
    names_of,
    of_an_expert,
)
from launcher.checkpoints.parts import refuse_uncomputed
from launcher.checkpoints.tokenizers.gguf import tokenizer_of
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.core.errors import CheckpointError
from launcher.core.stage import Loading
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn

ALWAYS_WITH_EXPERTS = ("qwen2moe", "qwen3moe")
DTYPES: dict[str, Literal["fp32", "bf16", "fp16"]] = {"F16": "fp16", "BF16": "bf16"}


class GGUFCheckpoint(Checkpoint):
    """One ``.gguf`` file. Quantised weights become full precision when they are loaded."""

    layout = "gguf"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        header = opened(path, bounds)
        self._fields, self._tensors = header.fields, _by_expert(header.tensors)
        _refuse_unknown(self._fields, path)
        self._kind = str(self._fields["general.architecture"])
        self.architecture = architecture_of(self._fields, self._tensors, path)
        self._names = names_of(self._kind, bool(self.architecture.num_experts))
        claims.check(self.architecture, sum(tensor.n_elements for tensor in self._tensors.values()), path)
        shapes = {name: _shape(name, tensor) for name, tensor in self._tensors.items() if name != rope_factors.FACTORS}
        convert.check(shapes, self.architecture, self._names, str(path))

    @staticmethod
    def matches(path: Path) -> bool:
        return path.is_file() and (path.suffix == ".gguf" or _starts_with_magic(path))

    def tokenizer(self) -> HuggingFaceTokenizer:
        return tokenizer_of(self._fields, self.path)

    def load_into(self, model: nn.Module) -> None:
        places = {name: (self.path, tensor.n_bytes) for name, tensor in self._tensors.items()}
        read = Loading(places.values()).counting(self._read, places)
        convert.load_into(model, self.architecture, self._names, read, str(self.path))

    def parameter(self, module: str, kind: str) -> Tensor:
        return convert.parameter(module, kind, self.architecture, self._names, self._read, str(self.path))

    def fingerprint(self) -> str:
        return fingerprint(self.path.parent, [self.path])

    def _read(self, name: str) -> Tensor:
        """Return a whole tensor in float32, with Hugging Face's order of channels."""
        import torch
        from gguf import dequantize

        stored = self._tensors[name]
        try:
            numbers = dequantize(stored.read(self.path), stored.tensor_type)
        except (NotImplementedError, OSError) as error:
            raise CheckpointError(f"{self.path}: tensor {shown(name)} cannot be read: {error}") from error
        tensor = torch.from_numpy(numbers.reshape(stored.shape[::-1]).copy())
        channels, what = self.architecture.kv_channels, f"{self.path}: tensor {shown(name)}"
        if is_joined(name):
            _refuse_other_rows(tensor, 3 * channels * self.architecture.num_attention_heads, what)
            return by_heads(tensor, channels)
        if SHARED_GATE.search(name):
            return tensor.reshape(1, -1)
        return unpermute(tensor, channels, what) if is_turned(self._kind, name) else tensor


def _by_expert(tensors: Mapping[str, GGUFTensor]) -> dict[str, GGUFTensor]:
    """Return the tensors of a file with each expert's part of a stacked one as a tensor of its own."""
    found: dict[str, GGUFTensor] = {}
    for name, tensor in tensors.items():
        if STACKED.match(name) and len(tensor.shape) == 3:
            found |= {of_an_expert(name, expert): part for expert, part in enumerate(tensor.parts())}
        else:
            found[name] = tensor
    return found


def _shape(name: str, tensor: GGUFTensor) -> tuple[int, ...]:
    """Return the shape of what `GGUFCheckpoint` reads by this name: in torch's order of axes."""
    shape = tensor.shape[::-1]
    return (1, *shape) if SHARED_GATE.search(name) and len(shape) == 1 else shape


def _refuse_other_rows(tensor: Tensor, rows: int, source: str) -> None:
    if tensor.shape[0] != rows:
        raise CheckpointError(f"{source} has {tensor.shape[0]} rows (expected {rows}: queries, keys, values)")


def opened(path: Path, bounds: Bounds) -> GGUFHeader:
    """Return a file's header, which is read once however often the same file is opened."""
    if not _starts_with_magic(path):
        raise CheckpointError(f"{path}: does not start with 'GGUF' (expected a GGUF file)")
    about = path.stat()
    return _header(path, about.st_mtime_ns, about.st_size, bounds.metadata_mb)


@lru_cache(maxsize=2)
def _header(path: Path, changed_ns: int, size: int, metadata_mb: int) -> GGUFHeader:
    return read_header(path, Bounds(metadata_mb=metadata_mb))


def unpermute(tensor: Tensor, channels: int, source: str) -> Tensor:
    """Undo llama.cpp's order of a head's channels (pairs next to each other) for rotary halves.

    Raises `CheckpointError`, which names the ``source``, if the tensor's rows are not those of whole heads.
    """
    heads, rest = divmod(tensor.shape[0], channels)
    if rest or channels % 2:
        raise CheckpointError(
            f"{source} has {tensor.shape[0]} rows (expected a multiple of a head's {channels} channels, which are even)"
        )
    return tensor.reshape(heads, channels // 2, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def permute(tensor: Tensor, channels: int) -> Tensor:
    """Put a head's channels into llama.cpp's order, which `unpermute` undoes."""
    heads = tensor.shape[0] // channels
    return tensor.reshape(heads, 2, channels // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _starts_with_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC


def _refuse_unknown(fields: Mapping[str, Json], path: Path) -> None:
    kind = fields.get("general.architecture")
    if kind not in SUPPORTED:
        raise NotComputed(f"{path}: general.architecture is {shown(kind)} (supported: {', '.join(SUPPORTED)})")


def architecture_of(fields: Mapping[str, Json], tensors: Mapping[str, GGUFTensor], path: Path) -> Architecture:
    """Return the model that a file's fields and tensors describe. Raises `CheckpointError` as `GGUFCheckpoint` does."""
    kind = fields["general.architecture"]

    def whole(key: str, default: int | None = None) -> int:
        return number(fields, f"{kind}.{key}", path, default)

    def real(key: str, default: float) -> float:
        return positive(fields, f"{kind}.{key}", path, default)

    _refuse_unsupported(fields, tensors, kind, path)
    hidden, heads = whole("embedding_length"), whole("attention.head_count")
    channels = whole("attention.key_length", max(1, hidden // heads))
    rotated = whole("rope.dimension_count", channels)
    window = fields.get(f"{kind}.attention.sliding_window")
    groups = whole("attention.head_count_kv", heads)
    if kind == "gptneox" and groups != heads:
        raise NotComputed(f"{path}: {kind}.attention.head_count_kv is {groups} (expected {heads}, that of queries)")
    experts = whole("expert_count") if fields.get(f"{kind}.expert_count") else 0
    neox, shared = kind == "gptneox", kind == "qwen2moe"
    found = Architecture(
        num_layers=whole("block_count"),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=channels,
        ffn_hidden_size=whole("feed_forward_length"),
        vocab_size=tensors["token_embd.weight"].shape[1],
        context_length=whole("context_length"),
        normalization="LayerNorm" if neox else "RMSNorm",
        norm_epsilon=real(f"attention.layer_norm_{'' if neox else 'rms_'}epsilon", math.nan),
        gated=not neox,
        activation="gelu" if neox else "silu",
        bias=neox,
        qkv_bias=neox or "blk.0.attn_q.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        rotary_base=real("rope.freq_base", 10000.0),
        rotary_percent=rotated / channels,
        rope_scaling=rope_factors.scaling(fields, kind, path),
        rope_factors=rope_factors.factors(tensors, kind, rotated, path),
        tied="output.weight" not in tensors,
        parallel_residual=neox and _is_parallel(fields, path),
        sliding_window=whole("attention.sliding_window") if window else None,
        num_experts=experts,
        experts_per_token=whole("expert_used_count") if experts else 0,
        expert_ffn_hidden_size=_expert_width(fields, kind, path) if experts else None,
        normalize_expert_weights=not shared,
        shared_expert_ffn_hidden_size=_shared_width(fields, kind, path) if shared else None,
        shared_expert_gate=shared,
        dtype=DTYPES.get(tensors["token_embd.weight"].tensor_type.name, "fp32"),
    )
    refuse_uncomputed(found, path)
    return found


def _is_parallel(fields: Mapping[str, Json], path: Path) -> bool:
    """Return whether attention and feed-forward layer read the same input, which a file has to say."""
    key = "gptneox.use_parallel_residual"
    if key not in fields:
        raise CheckpointError(f"{path}: {key} is missing (expected true or false)")
    return flag(fields, key, path)


def _expert_width(fields: Mapping[str, Json], kind: str, path: Path) -> int:
    """Return the channels of an expert, as llama.cpp takes them where a file does not say."""
    width = number(fields, f"{kind}.feed_forward_length", path)
    if kind in ALWAYS_WITH_EXPERTS:
        used = number(fields, f"{kind}.expert_used_count", path)
        return number(fields, f"{kind}.expert_feed_forward_length", path, max(1, width // used))
    return width


def _shared_width(fields: Mapping[str, Json], kind: str, path: Path) -> int:
    """Return the channels of the shared expert, as llama.cpp takes them where a file does not say."""
    width = number(fields, f"{kind}.feed_forward_length", path)
    return number(fields, f"{kind}.expert_shared_feed_forward_length", path, width)


def _refuse_unsupported(fields: Mapping[str, Json], tensors: Mapping[str, GGUFTensor], kind: str, path: Path) -> None:
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is missing (is it one part of a split file?)")
    if len(tensors["token_embd.weight"].shape) != 2:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is not a matrix (expected two dimensions)")
    if kind == "gptneox" and "output.weight" not in tensors:
        raise CheckpointError(
            f"{path}: tensor 'output.weight' is missing (a {kind} model needs it, even if it is tied)"
        )
    experts = fields.get(f"{kind}.expert_count")
    if experts and kind not in WITH_EXPERTS:
        what = f"{kind}.expert_count is {shown(experts)} (experts are read of {', '.join(WITH_EXPERTS)})"
        raise NotComputed(f"{path}: {what}")
    if not experts and kind in ALWAYS_WITH_EXPERTS:
        raise CheckpointError(f"{path}: {kind}.expert_count is {shown(experts)} (expected a positive whole number)")
    check_keys(fields, kind, path)
