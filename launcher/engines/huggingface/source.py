"""The metadata in a model's files, read without torch or transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.checkpoints.bounded import read_json_object, shown
from launcher.checkpoints.buffers import without
from launcher.checkpoints.claims import LONGEST_CONTEXT
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.gguf.file import GGUFTensor
from launcher.checkpoints.gguf.keys import check as check_keys
from launcher.checkpoints.gguf.layout import opened
from launcher.checkpoints.gguf.names import SUPPORTED
from launcher.checkpoints.gguf.rope_factors import FACTORED, FACTORS, scaling_type
from launcher.checkpoints.huggingface.class_defaults import CLASSES
from launcher.checkpoints.huggingface.code_keys import refuse_code
from launcher.checkpoints.huggingface.config import refuse_unsupported
from launcher.checkpoints.huggingface.layout import known_architecture
from launcher.checkpoints.huggingface.quantization.methods import SERVERS, refuse, settings
from launcher.checkpoints.huggingface.quantization.scaled import NUMBERS
from launcher.checkpoints.huggingface.safetensors_index import INDEX, Entry, read_index, unread
from launcher.checkpoints.missing import meant, missing
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds, Dtype

CONTEXT = (
    "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx",
    "context_length",
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "block_count")
ORIGINAL = ("original_max_position_embeddings",)
HIDDEN = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
"""The spellings of one fact in the configurations of different models."""

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary embedding that change all earlier keys when a sequence grows long."""

NO_SIZES = ("_id", "theta", "base", "seed")
"""Parts of the keys of integers that may be large without any cost."""

MIN_LAYER_LIMIT, MIN_SIZE_LIMIT = 128, 2**20
"""Sizes that a configuration may always state: it keeps defaults of other kinds of model."""

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""The spellings of the number of experts of a layer."""

RECURRENT = {
    *("bailing_hybrid", "bamba", "deepseek_v4", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba"),
    *("kimi_linear", "lara_mini", "mamba", "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "rwkv"),
    *("xlstm", "zamba", "zamba2", "zaya"),
}
"""Kinds of model that keep more than keys and values. Others that do are noticed when they are loaded."""

CONVOLVED = {"inkling_text", "lfm2", "lfm2_moe", "lfm3"}
"""Kinds with layers that keep the last inputs of a convolution."""

INDEXED = {"axk2", "deepseek_v32", "glm_moe_dsa", "hy_v4"}
"""Kinds that keep an index of the keys which each token reads."""

CONFIGURATIONS = ("config.json", "generation_config.json")
"""Files of a folder that transformers reads besides the weights."""

OTHER_STATES = {
    **dict.fromkeys(RECURRENT, "a recurrent state instead of keys and values"),
    **dict.fromkeys(CONVOLVED, "inputs of convolutions instead of keys and values"),
    **dict.fromkeys(INDEXED, "an index beside keys and values"),
}
STORED = {"F32": Dtype.fp32, "BF16": Dtype.bf16, "F16": Dtype.fp16}
EXPECTED = "a Hugging Face folder with config.json and safetensors, or a .gguf file"


@dataclass(frozen=True)
class Source:
    """A model on disk.

    ``kind`` is its ``model_type``, ``dtype`` that of the stored weights. ``context_length`` in tokens is None where the
    files do not say; ``context_reason`` says why it is less than what they say. ``cached_values`` counts the numbers
    in the keys and values of one token, over all layers; None where only the model itself can tell. ``experts`` is the
    number of experts of a layer, ``rows`` those of the embedding, where they are known. ``files`` are those that
    transformers may see, ``unread`` the names of other files of weights. ``tensors`` are the names of the tensors that
    an answer may depend on.
    """

    path: Path
    layout: str
    kind: str
    context_length: int | None
    context_reason: str
    dtype: Dtype
    parameters: int
    cached_values: int | None
    experts: int = 0
    rows: int | None = None
    files: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer stored with the weights; `CheckpointError` if there is none."""
        if self.layout == "gguf":
            from launcher.checkpoints.tokenizers.gguf import tokenizer_of

            return tokenizer_of(opened(self.path, self.bounds).fields, self.path)
        from launcher.checkpoints.tokenizers.huggingface import from_folder

        return from_folder(self.path, self.bounds)

    def fingerprint(self) -> str:
        """Return ``sha256:...`` over the files of the weights and the tokenizer."""
        if self.layout == "gguf":
            return fingerprint(self.path.parent, [self.path])
        weights = {entry.file for entry in read_index(self.path, self.bounds).values()}
        return fingerprint(self.path, [*weights, *self.path.glob("*.json"), *self.path.glob("tokenizer*")])


def read(path: Path, bounds: Bounds | None = None) -> Source:
    """Read the metadata at ``path`` within ``bounds``. Raises `CheckpointError` with the file and what was expected."""
    if not path.exists():
        raise CheckpointError(missing(path, EXPECTED))
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path, bounds or Bounds())
    if path.is_dir() and (path / "config.json").is_file():
        return _from_folder(path, bounds or Bounds())
    line = f"{path}: not a model that engine=huggingface reads (expected {EXPECTED}; or set engine=megatron)"
    raise CheckpointError(f"{line}{meant(path)}")


def _from_folder(path: Path, bounds: Bounds) -> Source:
    config = read_json_object(path / "config.json", bounds)
    _refuse_unsupported(config, path / "config.json")
    _refuse_quantized(config, path, bounds)
    for name in CONFIGURATIONS:
        if (path / name).is_file():
            refuse_code(read_json_object(path / name, bounds), path / name)
    config = {**CLASSES.get(str(config["model_type"]), {}), **config}
    stored = read_index(path, bounds)
    _refuse_eight_bits(config, stored, path / "config.json")
    numbers = sum(math.prod(entry.shape) for entry in stored.values())
    _check_claims(_sizes(config), len(stored), numbers, path / "config.json")
    known_architecture(path, bounds)
    length, reason = _context(config)
    return Source(
        path=path,
        layout="huggingface",
        kind=str(config.get("model_type")),
        context_length=length,
        context_reason=reason,
        dtype=_stored_dtype(stored),
        parameters=numbers,
        cached_values=_cached_values(config),
        experts=_first(config, EXPERTS) or 0,
        rows=_first(config, ("vocab_size",)),
        files=tuple(_files(path, stored)),
        unread=tuple(unread(path, bounds)),
        tensors=tuple(without(stored)),
        bounds=bounds,
    )


def _files(path: Path, stored: Mapping[str, Entry]) -> Iterator[Path]:
    """Yield the files that are the model: its configuration, and the weights that the index names."""
    index = path / INDEX
    others = (*(path / name for name in CONFIGURATIONS), index)
    yield from (file for file in others if file.is_file())
    yield from sorted({entry.file for entry in stored.values()})


def _refuse_quantized(config: Mapping[str, Json], path: Path, bounds: Bounds) -> None:
    """Refuse a quantised model: transformers would need a GPU."""
    found = settings(path, config, bounds)
    refuse(found)
    if found.key:
        raise CheckpointError(f"{found.where} is set ({found.method}), {_elsewhere(config)}")


def _refuse_eight_bits(config: Mapping[str, Json], stored: Mapping[str, Entry], file: Path) -> None:
    """Refuse weights of 8 bits, which transformers would take without their scales."""
    name = next((name for name, entry in stored.items() if entry.dtype in NUMBERS), None)
    if name is not None:
        raise CheckpointError(f"{file}: '{name:.200}' is of type {stored[name].dtype}, {_elsewhere(config)}")


def _elsewhere(config: Mapping[str, Json]) -> str:
    dequantised = "engine=megatron dequantises it, " if config.get("model_type") in CLASSES else ""
    return f"which engine=huggingface does not read; {dequantised}{SERVERS}"


def _refuse_unsupported(config: Mapping[str, Json], file: Path) -> None:
    if not config.get("model_type"):
        raise CheckpointError(f"{file}: model_type is missing (expected the configuration of a transformers model)")
    _refuse_other_state(str(config["model_type"]), f"{file}: model_type")
    refuse_unsupported(config, file)


def _refuse_other_state(kind: str, what: str) -> None:
    """Refuse, before a weight is read, what a cache of keys and values cannot continue."""
    kept = OTHER_STATES.get(kind.replace("-", "_"))
    if kept is not None:
        raise CheckpointError(f"{what} is {kind!r}, which keeps {kept}; {SERVERS}")


def _check_claims(sizes: Iterable[tuple[str, int]], tensors: int, numbers: int, file: Path) -> None:
    """Refuse sizes that the stored tensors contradict, before transformers builds a model from them.

    A layer has at least one tensor, and every other size is an axis of a tensor.
    """
    bounds = dict.fromkeys(LAYERS, max(tensors, MIN_LAYER_LIMIT)) | dict.fromkeys(CONTEXT + ORIGINAL, LONGEST_CONTEXT)
    for key, value in sizes:
        most = bounds.get(key.rsplit(".", 1)[-1], max(numbers, MIN_SIZE_LIMIT))
        if value > most:
            raise CheckpointError(
                f"{file}: {key} is {shown(value)} (expected at most {most}: {tensors} tensors of {numbers} numbers "
                "are stored)"
            )


def _sizes(config: Mapping[str, Json]) -> Iterator[tuple[str, int]]:
    """Yield the integers of a configuration that may be sizes, with their keys."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif type(value) is int and not any(part in key for part in NO_SIZES):
            yield key, value


def _context(config: Mapping[str, Json]) -> tuple[int | None, str]:
    """Return the longest context that can be computed exactly, and why it is less than the config's own."""
    stated = _first(config, CONTEXT)
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type"))
        if kind in LENGTH_DEPENDENT:
            trained = _first(rope, ORIGINAL) or _first(config, ORIGINAL)
            limit = min((x for x in (trained, stated) if x is not None), default=None)
            reason = f"rope_type={kind} changes all earlier keys beyond {limit} tokens, which no cache can follow"
            return limit, reason if limit != stated else ""
    return stated, ""


def _ropes(config: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    """Yield the rotary settings: one, or one per kind of layer."""
    settings = _mapping(config, "rope_parameters") or _mapping(config, "rope_scaling")
    yield settings
    yield from (nested for nested in settings.values() if isinstance(nested, dict))


def _mapping(config: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _cached_values(config: Mapping[str, Json]) -> int | None:
    layers, hidden, heads = (_first(config, names) for names in (LAYERS, HIDDEN, HEADS))
    if layers is None or hidden is None or heads is None or config.get("kv_lora_rank"):
        return None
    channels = _first(config, ("head_dim",)) or hidden // heads
    return 2 * layers * (_first(config, KEY_HEADS) or heads) * channels


def _first(config: Mapping[str, Json], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)


def _stored_dtype(stored: Mapping[str, Entry]) -> Dtype:
    """Return the type of the largest tensor."""
    largest = max(stored.values(), key=lambda entry: math.prod(entry.shape))
    if largest.dtype not in STORED:
        raise CheckpointError(f"{largest.file}: weights of type {largest.dtype} (expected {', '.join(STORED)})")
    return STORED[largest.dtype]


def _from_gguf(path: Path, bounds: Bounds) -> Source:
    header = opened(path, bounds)
    fields, tensors = header.fields, header.tensors
    kind = shown(fields.get("general.architecture")).strip("'")
    _refuse_unsupported_gguf(fields, tensors, kind, path)
    numbers = sum(tensor.n_elements for tensor in tensors.values())
    named = {key: value for key, value in fields.items() if key.startswith(f"{kind}.")}
    _check_claims(_sizes(named), len(tensors), numbers, path)
    return Source(
        path=path,
        layout="gguf",
        kind=kind,
        context_length=_first(fields, (f"{kind}.context_length",)),
        context_reason="",
        dtype=STORED.get(tensors["token_embd.weight"].tensor_type.name, Dtype.fp32),
        parameters=numbers,
        cached_values=_cached_values_gguf(fields, kind),
        experts=_first(fields, (f"{kind}.expert_count",)) or 0,
        rows=tensors["token_embd.weight"].shape[-1],
        tensors=tuple(name for name in tensors if name != FACTORS),
        bounds=bounds,
    )


def _cached_values_gguf(fields: Mapping[str, Json], kind: str) -> int | None:
    def get(key: str) -> int | None:
        return _first(fields, (f"{kind}.{key}",))

    heads, hidden, layers = get("attention.head_count"), get("embedding_length"), get("block_count")
    if heads is None or hidden is None or layers is None:
        return None
    channels = get("attention.key_length") or hidden // heads
    return 2 * layers * (get("attention.head_count_kv") or heads) * channels


def _refuse_unsupported_gguf(
    fields: Mapping[str, Json], tensors: Mapping[str, GGUFTensor], kind: str, path: Path
) -> None:
    """Refuse what transformers would silently ignore, and what no cache of keys and values continues."""
    _refuse_other_state(kind, f"{path}: general.architecture")
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is missing (is it one part of a split file?)")
    if kind in SUPPORTED:
        check_keys(fields, kind, path)
    if FACTORS in tensors and not tensors[FACTORS].is_neutral(path):
        instead = "engine=megatron" if kind in FACTORED else "the Hugging Face folder"
        raise CheckpointError(f"{path}: transformers does not read {FACTORS} (expected {instead})")
    if (kind, fields.get("general.name")) == ("llama", "mistral"):
        raise CheckpointError(
            f"{path}: general.name is 'mistral', which makes transformers add a window; set engine=megatron"
        )
    if kind == "llama" and fields.get("llama.expert_count"):
        raise CheckpointError(f"{path}: transformers does not read llama.expert_count (expected engine=megatron)")
    if fields.get(f"{kind}.attention.sliding_window") and kind in SUPPORTED:
        raise CheckpointError(f"{path}: transformers does not read {kind}.attention.sliding_window (expected none)")
    scaling = scaling_type(fields, kind)
    if scaling != "none":
        raise CheckpointError(f"{path}: transformers does not read {kind}.rope.scaling.type={scaling} (expected none)")
