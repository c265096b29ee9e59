"""The methods of quantisation that are read, and how a folder names its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoints.bounded import read_json_object, shown
from launcher.checkpoints.fields import section
from launcher.checkpoints.huggingface.quantization import awq, bitsandbytes, compressed_tensors, gptq, modelopt, scaled
from launcher.checkpoints.huggingface.quantization.weights import Find, Settings, Stored, Weights, combined
from launcher.checkpoints.huggingface.safetensors_index import Entry
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

KEYS = ("quantization_config", "compression_config")
METHODS: Mapping[str, Find] = {
    "fp8": scaled.find,
    "compressed-tensors": compressed_tensors.find,
    "modelopt": modelopt.find,
    "gptq": gptq.find,
    "awq": awq.find,
    "bitsandbytes": bitsandbytes.find,
}
FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where a method's own library says what ``config.json`` may leave out."""

UNUSED = ("input_scale", "input_global_scale", "k_scale", "v_scale")
"""Scales of a layer's inputs and of the cache, which stay in full precision here."""

SERVERS = "backend=vllm or backend=sglang may serve it as it is"


def settings(folder: Path, values: Mapping[str, Json], bounds: Bounds) -> Settings:
    """Return what a folder says of its quantisation; no method if it is not quantised. Raises `CheckpointError`."""
    file = folder / "config.json"
    key = next((key for key in KEYS if values.get(key)), None)
    if key is not None:
        config = section(values, key, file)
        eight_or_four = config.get("load_in_8bit") or config.get("load_in_4bit")
        method = config.get("quant_method") or ("bitsandbytes" if eight_or_four else None)
        return Settings(method if isinstance(method, str) else shown(method), config, file, key)
    for name, method in FILES.items():
        if (folder / name).is_file():
            return Settings(method, read_json_object(folder / name, bounds), folder / name)
    return Settings(None, {}, file)


def weights(folder: Path, stored: Mapping[str, Entry], values: Mapping[str, Json], bounds: Bounds) -> Weights:
    """Put together what a folder's weights are, quantised or not.

    Raises `CheckpointError`, with servers that may take it, for a method, a setting or a tensor that is not exact.
    """
    found = settings(folder, values, bounds)
    refuse(found)
    try:
        made = dict((METHODS[found.method] if found.method else scaled.find)(Stored(stored), found))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {SERVERS}" if found.method else str(error)) from None
    if found.key and not made:
        raise CheckpointError(f"{found.where} is set for {found.method}, and no weight is stored so; {SERVERS}")
    unused = {name for name in stored if made and name.rpartition(".")[2] in UNUSED}
    return combined(stored, made, unused, found.method if made else None)


def refuse(found: Settings) -> None:
    """Raise `CheckpointError` for a method that is not dequantised here."""
    if found.method is not None and found.method not in METHODS:
        raise CheckpointError(
            f"{found.where} is set, and {found.method} is not dequantised here ({', '.join(METHODS)} are); {SERVERS}"
        )
