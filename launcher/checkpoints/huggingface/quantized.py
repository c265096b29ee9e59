"""Quantised weights of Hugging Face folders: 8-bit numbers times scales, which is exact in fp32; others are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import as_list, section
from launcher.checkpoints.huggingface.safetensors_index import LOADED, Entry, read_tensor
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

KEY = "quantization_config"
NUMBERS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8"}
"""Torch's names of the types of quantised weights."""

SCALES = ("weight_scale_inv", "weight_scale")
"""What stands in place of ``weight`` in the name of its scales; both multiply."""

UNUSED = "input_scale"
"""The scale of a layer's inputs, which stay in full precision here."""

FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
"""Formats of compressed-tensors that store one number of 8 bits for each weight."""

SERVERS = "backend=vllm or backend=sglang serves it as it is"


def refuse(values: Mapping[str, Json], file: Path) -> None:
    """Raise `CheckpointError` for weights that are not 8-bit numbers times scales."""
    config = section(values, KEY, file)
    method = config.get("quant_method")
    if method == "fp8" or (method == "compressed-tensors" and _is_plain(config)):
        return
    what = f"{shown(method)} in format {shown(config['format'])}" if "format" in config else shown(method)
    raise CheckpointError(
        f"{file}: {KEY} is set, and {what} is not dequantised here (fp8 and 8-bit compressed-tensors are); {SERVERS}"
    )


def _is_plain(config: Mapping[str, Json]) -> bool:
    sparse = config.get("sparsity_config") or {}
    dense = isinstance(sparse, dict) and sparse.get("format", "dense") == "dense"
    return config.get("format") in FORMATS and dense and not config.get("transform_config")


@dataclass(frozen=True)
class Weights:
    """The weights of a folder by name, as a model needs them; ``entries`` of quantised ones are of type F32.

    ``stored`` are all tensors as they are stored, ``scales`` the names of the scales of quantised weights.
    """

    entries: Mapping[str, Entry]
    stored: Mapping[str, Entry]
    scales: Mapping[str, str]
    block: tuple[int, int] | None

    def read(self, name: str) -> Tensor:
        """Load one whole weight; a quantised one in fp32."""
        entry = self.stored[name]
        if name not in self.scales:
            return read_tensor(entry, name)
        numbers = read_tensor(entry, name, NUMBERS).float()
        key = self.scales[name]
        scales = read_tensor(self.stored[key], key).float()
        return numbers * _spread(scales, (entry.shape[0], entry.shape[1]), self.block)


def weights(stored: Mapping[str, Entry], values: Mapping[str, Json], file: Path) -> Weights:
    """Pair quantised weights with their scales. Raises `CheckpointError` for one without, or of another shape."""
    block = _block(values, file)
    scales = dict(_scales(stored, block))
    dropped = {*scales.values(), *(_beside(name, UNUSED) for name in scales)}
    entries = {n: replace(e, dtype="F32") if n in scales else e for n, e in stored.items() if n not in dropped}
    return Weights(entries, stored, scales, block)


def _beside(name: str, other: str) -> str:
    return f"{name.removesuffix('weight')}{other}"


def _scales(stored: Mapping[str, Entry], block: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    for name, entry in stored.items():
        if entry.dtype not in NUMBERS or not name.endswith(".weight"):
            continue
        key = next((key for key in (_beside(name, scale) for scale in SCALES) if key in stored), None)
        if key is None:
            raise CheckpointError(
                f"{entry.file}: {shown(name)} is of type {entry.dtype} without a scale (expected one of "
                f"{', '.join(SCALES)} beside it)"
            )
        found = stored[key]
        if found.dtype not in LOADED or not _fits(found.shape, entry.shape, block):
            raise CheckpointError(
                f"{found.file}: {shown(key)} is {found.dtype} of shape {list(found.shape)}, which does "
                f"not fit the weight's {list(entry.shape)} (expected one scale, one per row, or one per block)"
            )
        yield name, key


def _fits(scales: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] | None) -> bool:
    if len(shape) != 2:
        return False
    blocks = block and tuple(-(-size // step) for size, step in zip(shape, block, strict=True))
    return scales in ((), (1,), (1, 1), (shape[0],), (shape[0], 1), blocks)


def _spread(scales: Tensor, shape: tuple[int, int], block: tuple[int, int] | None) -> Tensor:
    """Return the scales in a form that multiplies a weight of this shape."""
    if scales.numel() == 1:
        return scales.reshape(1, 1)
    if (scales.numel() == shape[0] and scales.ndim == 1) or tuple(scales.shape) == (shape[0], 1):
        return scales.reshape(-1, 1)
    assert block is not None  # `_fits`
    return scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def _block(values: Mapping[str, Json], file: Path) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale. Raises `CheckpointError` for another value."""
    config = section(values, KEY, file)
    given = as_list(config, "weight_block_size", file) or _grouped_block(config)
    if not given:
        return None
    if len(given) != 2 or not all(type(size) is int and size > 0 for size in given):
        raise CheckpointError(f"{file}: the blocks of {KEY} are {shown(given)} (expected two positive whole numbers)")
    return given[0], given[1]


def _grouped_block(config: Mapping[str, Json]) -> list[Json]:
    """Return compressed-tensors' ``block_structure``, if a group of layers has one."""
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        found = (group.get("weights") or {}).get("block_structure") if isinstance(group, dict) else None
        if isinstance(found, list):
            return found
    return []
