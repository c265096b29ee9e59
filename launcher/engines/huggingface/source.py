"""What the files of a model say of it, read without torch or transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoints.buffers import without
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.gguf import FACTORS, SUPPORTED
from launcher.checkpoints.gguf_keys import check as check_keys
from launcher.checkpoints.hf_config import refuse_unsupported
from launcher.checkpoints.hf_tokenizer import read_json
from launcher.checkpoints.safetensors_index import INDEX, Entry, read_index, unread
from launcher.core import Json
from launcher.errors import CheckpointError
from launcher.model import Dtype
from launcher.tokenizer import Tokenizer

CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
"""The spellings of one fact in the configurations of different models."""

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary embedding that turn all earlier keys differently when a sequence grows long."""

STORED = {"F32": Dtype.fp32, "BF16": Dtype.bf16, "F16": Dtype.fp16}
EXPECTED = "a Hugging Face folder with config.json and safetensors, or a .gguf file"


@dataclass(frozen=True)
class Source:
    """A model on disk.

    ``kind`` is its ``model_type``, ``dtype`` that of the stored weights. ``context_length`` in tokens is None where the
    files do not say; ``context_reason`` says why it is less than what they say. ``cached_values`` is how many numbers
    the keys and values of one token are, over all layers; None where only the model itself can tell. ``files`` are
    what transformers may see, ``unread`` the names of other files of weights, and ``tensors`` those of the tensors
    that an answer may depend on.
    """

    path: Path
    layout: str
    kind: str
    context_length: int | None
    context_reason: str
    dtype: Dtype
    parameters: int
    cached_values: int | None
    files: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer stored with the weights; `CheckpointError` if there is none."""
        if self.layout == "gguf":
            from launcher.checkpoints.gguf_tokenizer import tokenizer_of

            return tokenizer_of(_gguf(self.path)[0], self.path)
        from launcher.checkpoints.hf_tokenizer import from_folder

        return from_folder(self.path)

    def fingerprint(self) -> str:
        """Return ``sha256:...`` over what decides the weights and the tokenizer."""
        if self.layout == "gguf":
            return fingerprint(self.path.parent, [self.path])
        weights = {entry.file for entry in read_index(self.path).values()}
        return fingerprint(self.path, [*weights, *self.path.glob("*.json"), *self.path.glob("tokenizer*")])


def read(path: Path) -> Source:
    """Read the metadata at ``path``. Raises `CheckpointError` with the file and what was expected."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder (expected {EXPECTED})")
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path)
    if path.is_dir() and (path / "config.json").is_file():
        return _from_folder(path)
    raise CheckpointError(f"{path}: nothing that engine=huggingface reads (expected {EXPECTED}; else engine=megatron)")


def _from_folder(path: Path) -> Source:
    config = read_json(path / "config.json")
    _refuse_unsupported(config, path / "config.json")
    stored = read_index(path)
    length, reason = _context(config)
    return Source(
        path=path,
        layout="huggingface",
        kind=str(config.get("model_type")),
        context_length=length,
        context_reason=reason,
        dtype=_stored_dtype(stored),
        parameters=sum(math.prod(entry.shape) for entry in stored.values()),
        cached_values=_cached_values(config),
        files=tuple(_files(path, stored)),
        unread=tuple(unread(path)),
        tensors=tuple(without(stored)),
    )


def _files(path: Path, stored: Mapping[str, Entry]) -> Iterator[Path]:
    """Yield the files that are the model: its configuration, and the weights that the index names."""
    index = path / INDEX
    others = (path / "config.json", path / "generation_config.json", index)
    yield from (file for file in others if file.is_file())
    yield from sorted({entry.file for entry in stored.values()})


def _refuse_unsupported(config: Mapping[str, Json], file: Path) -> None:
    if not config.get("model_type"):
        raise CheckpointError(f"{file}: model_type is missing (expected the configuration of a transformers model)")
    refuse_unsupported(config, file)


def _context(config: Mapping[str, Json]) -> tuple[int | None, str]:
    """Return the longest context that can be computed exactly, and why it is less than what the config says."""
    stated = _first(config, CONTEXT)
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type"))
        if kind in LENGTH_DEPENDENT:
            trained = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
            limit = min(x for x in (trained, stated) if x is not None)
            reason = f"rope_type={kind} changes all earlier keys beyond {limit} tokens, which no cache can follow"
            return limit, reason if limit != stated else ""
    return stated, ""


def _ropes(config: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    """Yield the rotary settings: one, or one per kind of layer."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    yield settings
    yield from (nested for nested in settings.values() if isinstance(nested, dict))


def _cached_values(config: Mapping[str, Json]) -> int | None:
    layers, hidden, heads = (_first(config, names) for names in (LAYERS, HIDDEN, HEADS))
    if layers is None or hidden is None or heads is None or config.get("kv_lora_rank"):
        return None
    channels = config.get("head_dim") or hidden // heads
    return 2 * layers * (_first(config, KEY_HEADS) or heads) * channels


def _first(config: Mapping[str, Json], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _stored_dtype(stored: Mapping[str, Entry]) -> Dtype:
    """Return the type of the largest tensor."""
    largest = max(stored.values(), key=lambda entry: math.prod(entry.shape))
    if largest.dtype not in STORED:
        raise CheckpointError(f"{largest.file}: weights of type {largest.dtype} (expected {', '.join(STORED)})")
    return STORED[largest.dtype]


def _from_gguf(path: Path) -> Source:
    fields, tensors = _gguf(path)
    kind = str(fields.get("general.architecture"))
    _refuse_unsupported_gguf(fields, tensors, kind, path)
    return Source(
        path=path,
        layout="gguf",
        kind=kind,
        context_length=fields.get(f"{kind}.context_length"),
        context_reason="",
        dtype=STORED.get(tensors["token_embd.weight"].tensor_type.name, Dtype.fp32),
        parameters=sum(int(tensor.n_elements) for tensor in tensors.values()),
        cached_values=_cached_values_gguf(fields, kind),
        tensors=tuple(name for name in tensors if name != FACTORS),
    )


def _cached_values_gguf(fields: Mapping[str, Json], kind: str) -> int | None:
    def get(key: str) -> Any:
        return fields.get(f"{kind}.{key}")

    heads, hidden, layers = get("attention.head_count"), get("embedding_length"), get("block_count")
    if not all(isinstance(number, int) for number in (heads, hidden, layers)):
        return None
    channels: int = get("attention.key_length") or hidden // heads
    return 2 * int(layers) * int(get("attention.head_count_kv") or heads) * channels


def _gguf(path: Path) -> tuple[dict[str, Json], dict[str, Any]]:
    """Return a GGUF file's metadata and its tensors, by name."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: a damaged or incomplete GGUF file: {error}") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _refuse_unsupported_gguf(fields: Mapping[str, Json], tensors: Mapping[str, Any], kind: str, path: Path) -> None:
    """Refuse what transformers would leave out without a word."""
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is missing (is it one part of a split file?)")
    if kind in SUPPORTED:
        check_keys(fields, kind, path)
    if FACTORS in tensors and (tensors[FACTORS].data != 1).any():
        raise CheckpointError(f"{path}: transformers does not read rope_freqs (expected the Hugging Face folder)")
    if fields.get(f"{kind}.attention.sliding_window") and kind in SUPPORTED:
        raise CheckpointError(f"{path}: transformers does not read {kind}.attention.sliding_window (expected none)")
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise CheckpointError(f"{path}: transformers does not read {kind}.rope.scaling.type={scaling} (expected none)")
