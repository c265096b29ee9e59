"""Configuration keys that make transformers fetch or import code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.checkpoints.bounded import shown
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

IMPLEMENTATIONS = ("attn_implementation", "attn_implementation_internal", "experts_implementation",
                   "experts_implementation_internal")  # fmt: skip
"""How attention and experts are computed: a name of transformers' own, or a kernel that it fetches from the Hub."""

OWN = (
    "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4", "grouped_mm",
    "batched_mm",
)  # fmt: skip
"""Names of transformers' own, which change speed only. They are not passed on: flash attention may be fetched too."""

FETCHED = (
    "backbone", "use_timm_backbone", "use_pretrained_backbone", "timm_model_name", "use_kernels", "kernel_config",
    "allow_all_kernels", "custom_generate", "configuration_files",
)  # fmt: skip
"""Keys that name code, weights or a configuration elsewhere."""


def refuse_code(config: Json, file: Path) -> None:
    """Raise `CheckpointError` for a key, at any depth, by which transformers would fetch or import code."""
    for key, value in _pairs(config):
        if _is_implementation(key):
            unknown = [name for name in _values(value) if name is not None and name not in OWN]
            if unknown:
                raise CheckpointError(f"{file}: {key} is {shown(unknown[0])} (expected one of {', '.join(OWN)})")
        elif key in FETCHED and value:
            raise CheckpointError(f"{file}: {key} is {shown(value)}, by which code may be fetched (expected none)")
        elif key == "quantization_config" and value:
            raise CheckpointError(f"{file}: quantization_config is set (expected weights that are not quantised)")


def without_code(config: Json) -> Json:
    """Return a configuration without its implementations, so that transformers takes its default ones."""
    if isinstance(config, list):
        return [without_code(each) for each in config]
    if not isinstance(config, dict):
        return config
    return {key: without_code(value) for key, value in config.items() if not _is_implementation(key)}


def _is_implementation(key: str) -> bool:
    return key.strip("_") in IMPLEMENTATIONS


def _pairs(value: Json) -> Iterator[tuple[str, Json]]:
    """Yield the keys and values of a JSON value at every depth."""
    pairs: Mapping[str, Json] = value if isinstance(value, dict) else {}
    yield from pairs.items()
    for each in value if isinstance(value, list) else pairs.values():
        yield from _pairs(each)


def _values(value: Json) -> Iterator[Json]:
    """Yield the implementations in a value: one, or one for each part of a model."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _values(each)
    else:
        yield value
