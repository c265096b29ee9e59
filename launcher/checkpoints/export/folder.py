"""Convert a checkpoint into a Hugging Face folder: planned, streamed, resumable and checksummed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints import convert
from launcher.checkpoints.base import Checkpoint, NotComputed
from launcher.checkpoints.export import plan as planning
from launcher.checkpoints.export.huggingface import Target, target, with_tokens
from launcher.checkpoints.export.manifest import Identity, Manifest, check, opened
from launcher.checkpoints.export.plan import Shard, Unit
from launcher.checkpoints.export.safetensors_file import content, header
from launcher.checkpoints.export.transforms import Transform
from launcher.checkpoints.huggingface.safetensors_index import INDEX
from launcher.core.errors import CheckpointError
from launcher.core.files import write_large
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str], None]
GB = 10**9


@dataclass(frozen=True)
class Conversion:
    """A conversion that is decided and has written nothing. ``dtype`` is ``fp32``, ``bf16`` or ``fp16``."""

    checkpoint: Checkpoint
    folder: Path
    dtype: str
    target: Target
    shards: tuple[Shard, ...]
    identity: Identity

    def facts(self) -> dict[str, Json]:
        """Return what a plan shows."""
        size = sum(unit.numbers for shard in self.shards for unit in shard.units) * planning.BYTES[self.dtype]
        return {
            "source": f"{self.checkpoint.path} ({self.checkpoint.layout})",
            "model_type": self.target.config["model_type"],
            "dtype": self.dtype,
            "files": [shard.name for shard in self.shards],
            "bytes of weights": size,
        }


def prepare(checkpoint: Checkpoint, folder: Path, dtype: str, shard_gb: float, tokenizer: str | None) -> Conversion:
    """Decide a conversion from metadata alone. ``dtype`` may be ``auto``, the checkpoint's own.

    ``tokenizer`` is the fingerprint of one that is not the checkpoint's. Raises `UserError` for a model that the target
    cannot express, and for a folder that is not this conversion's.
    """
    a, chosen = checkpoint.architecture, checkpoint.architecture.dtype if dtype == "auto" else dtype
    if a.zero_centered_gamma and chosen != "fp32":
        raise NotComputed(
            f"{checkpoint.path}: its norms are stored as the distance from 1, and {chosen} would round 1 + weight; "
            "expected convert.dtype=fp32"
        )
    found = target(a, chosen, str(checkpoint.path))
    identity = Identity(checkpoint.fingerprint(), tokenizer, "hf", chosen, shard_gb)
    check(folder, identity)
    shards = planning.shards(planning.units(a, found.names), chosen, int(shard_gb * GB))
    return Conversion(checkpoint, folder, chosen, found, tuple(shards), identity)


def carry_out(conversion: Conversion, tokenizer: Tokenizer | None, progress: Progress, wait: bool = False) -> Manifest:
    """Write the folder, or what is missing of it; whole files stay.

    Another process that writes it is waited for with ``wait``, else refused. Raises `UserError`.
    """
    facts: dict[str, Json] = {"layout": conversion.checkpoint.layout, "source_name": conversion.checkpoint.path.name}
    small = dict(_small_files(conversion, tokenizer))
    with opened(conversion.folder, conversion.identity, facts, wait) as manifest:
        missing = [shard for shard in conversion.shards if not manifest.holds(shard.name)]
        if kept := len(conversion.shards) - len(missing):
            progress(f"{kept} of {len(conversion.shards)} files of weights are there, with the right checksums")
        if missing:
            with conversion.checkpoint.reading():
                for shard in missing:
                    manifest.add(shard.name, _write_shard(conversion, shard))
                    progress(f"{shard.name}: {len(shard.units)} parameters")
        for name, text in small.items():
            if not manifest.holds(name):
                manifest.add(name, write_large(conversion.folder / name, [text]))
        manifest.finish()
    return manifest


def _write_shard(conversion: Conversion, shard: Shard) -> str:
    tensors = [tensor for unit in shard.units for tensor in unit.tensors]
    first = header(tensors, conversion.dtype)
    return write_large(conversion.folder / shard.name, content(first, _tensors(conversion, shard)))


def _tensors(conversion: Conversion, shard: Shard) -> Iterator[Tensor]:
    """Yield the tensors of a file; one whole parameter is in memory at a time."""
    transform = Transform(conversion.checkpoint.architecture)
    for unit in shard.units:
        value = transform(conversion.checkpoint.parameter(unit.module, unit.kind), unit.module, unit.kind)
        yield from _cut(conversion, unit, _cast(value, conversion, unit))


def _cut(conversion: Conversion, unit: Unit, value: Tensor) -> Iterator[Tensor]:
    names, architecture = conversion.target.names, conversion.checkpoint.architecture
    parts = convert.split(value, unit.module, unit.kind, architecture, names)
    for (name, tensor), (promised, shape) in zip(parts, unit.tensors, strict=True):
        if (name, tuple(tensor.shape)) != (promised, shape):
            raise CheckpointError(
                f"{conversion.checkpoint.path}: {name} has shape {list(tensor.shape)} (the model needs {list(shape)})"
            )
        yield tensor


def _cast(value: Tensor, conversion: Conversion, unit: Unit) -> Tensor:
    """Return the weights in the target's type. Raises `CheckpointError` for a number that is too large for it."""
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[conversion.dtype]
    made = value.to(wanted)
    if made.dtype != value.dtype and conversion.dtype == "fp16" and bool((made.isinf() & ~value.isinf()).any()):
        raise CheckpointError(
            f"{conversion.checkpoint.path}: {unit.module}.{unit.kind} holds {float(value.abs().max()):.4g}, more than "
            "fp16 can hold; expected convert.dtype=bf16 or fp32"
        )
    return made


def _small_files(conversion: Conversion, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
    """Yield every file beside the weights; ``config.json``, by which readers know the folder, is the last."""
    if tokenizer is not None:
        yield from tokenizer.files().items()
    if len(conversion.shards) > 1:
        yield INDEX, _json(_index(conversion))
    config = with_tokens(conversion.target.config, tokenizer)
    tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
    yield "generation_config.json", _json(tokens)
    yield "config.json", _json(config)


def _index(conversion: Conversion) -> dict[str, Json]:
    places = {name: shard.name for shard in conversion.shards for unit in shard.units for name, _ in unit.tensors}
    return {"metadata": {"total_size": conversion.facts()["bytes of weights"]}, "weight_map": places}


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
