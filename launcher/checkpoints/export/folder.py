"""Convert a checkpoint into a folder of another layout: planned, streamed, resumable and checksummed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Architecture, Checkpoint
from launcher.checkpoints.export.format import Format
from launcher.checkpoints.export.manifest import Identity, Manifest, check, opened
from launcher.checkpoints.export.plan import Shard, Unit
from launcher.core.errors import CheckpointError, UserError
from launcher.core.files import storing, write_large
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.convert import Layout, Quantize

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a conversion. ``dtype`` is ``fp32``, ``bf16``, ``fp16`` or ``auto``, the checkpoint's own.

    ``shard_gb`` bounds a file of weights.
    """

    layout: Layout = Layout.hf
    dtype: str = "auto"
    shard_gb: float = 5.0
    quantize: Quantize = Quantize.none


@dataclass(frozen=True)
class Conversion:
    """A conversion that is decided and has written nothing. ``dtype`` is ``fp32``, ``bf16`` or ``fp16``."""

    checkpoint: Checkpoint
    folder: Path
    dtype: str
    format: Format
    identity: Identity

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.format.shards

    def facts(self) -> dict[str, Json]:
        """Return what a plan shows."""
        return {
            "source": f"{self.checkpoint.path} ({self.checkpoint.layout})",
            "format": self.identity.format,
            "model_type": self.format.model,
            "dtype": self.dtype,
            "files": [shard.name for shard in self.shards],
            "bytes of weights": self.format.bytes_of_weights,
        }


def prepare(checkpoint: Checkpoint, folder: Path, wanted: Wanted, tokenizer: str | None) -> Conversion:
    """Decide a conversion from metadata alone.

    ``tokenizer`` is the fingerprint of one that is not the checkpoint's. Raises `UserError` for a model that the target
    cannot express, and for a folder that is not this conversion's.
    """
    dtype = checkpoint.architecture.dtype if wanted.dtype == "auto" else wanted.dtype
    found = _format(checkpoint.architecture, wanted, dtype, str(checkpoint.path))
    identity = Identity(
        checkpoint.fingerprint(), tokenizer, wanted.layout.value, dtype, wanted.shard_gb, wanted.quantize.value
    )
    check(folder, identity)
    return Conversion(checkpoint, folder, dtype, found, identity)


def _format(a: Architecture, wanted: Wanted, dtype: str, source: str) -> Format:
    from launcher.checkpoints.export.gguf_file import GGUFFile
    from launcher.checkpoints.export.hf_folder import HuggingFaceFolder
    from launcher.checkpoints.export.nemo2 import Nemo2Folder
    from launcher.checkpoints.export.torch_dist import TorchDistFolder

    if wanted.layout is Layout.gguf:
        return GGUFFile(a, dtype, wanted.quantize is Quantize.q8_0, source)
    if wanted.quantize is not Quantize.none:
        raise UserError(f"convert.quantize={wanted.quantize.value}: only convert.format=gguf has it")
    made: dict[Layout, Callable[[Architecture, str, float, str], Format]] = {
        Layout.hf: HuggingFaceFolder,
        Layout.torch_dist: TorchDistFolder,
        Layout.nemo2: Nemo2Folder,
    }
    return made[wanted.layout](a, dtype, wanted.shard_gb, source)


def carry_out(conversion: Conversion, tokenizer: Tokenizer | None, progress: Progress, wait: bool = False) -> Manifest:
    """Write the folder, or what is missing of it; whole files stay.

    Another process that writes it is waited for with ``wait``, else refused. Raises `UserError`.
    """
    facts: dict[str, Json] = {"layout": conversion.checkpoint.layout, "source_name": conversion.checkpoint.path.name}
    if isinstance(peft := conversion.checkpoint.facts().get("peft"), dict):
        facts["peft"] = peft["fingerprint"]
    small = dict(conversion.format.small_files(tokenizer))
    with opened(conversion.folder, conversion.identity, facts, wait) as manifest:
        missing = [shard for shard in conversion.shards if not manifest.holds(shard.name)]
        if kept := len(conversion.shards) - len(missing):
            progress(f"{kept} of {len(conversion.shards)} files of weights are there, with the right checksums")
        if missing:
            with conversion.checkpoint.reading():
                for shard in missing:
                    content = conversion.format.content(shard, _parameters(conversion, shard, progress), tokenizer)
                    _write(conversion, manifest, shard.name, content)
                    progress(f"{shard.name}: {len(shard.units)} parameters")
        for name, text in small.items():
            if not manifest.holds(name):
                _write(conversion, manifest, name, iter([text]))
        manifest.finish()
    return manifest


def _write(conversion: Conversion, manifest: Manifest, name: str, content: Iterator[bytes | memoryview]) -> None:
    file = conversion.folder / name
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    manifest.add(name, write_large(file, content))


def _parameters(conversion: Conversion, shard: Shard, progress: Progress) -> Iterator[tuple[Unit, Tensor]]:
    """Yield the parameters of a file; one is in memory at a time."""
    for unit in shard.units:
        value = conversion.checkpoint.parameter(unit.module, unit.kind)
        if value.numel() and not all(map(isfinite, value.aminmax())):
            progress(f"warning: {unit.module}.{unit.kind} holds numbers that are infinite or none (NaN)")
        yield unit, _cast(conversion.format.transformed(value, unit.module, unit.kind), conversion, unit)


def _cast(value: Tensor, conversion: Conversion, unit: Unit) -> Tensor:
    """Return the weights in the target's type. Raises `CheckpointError` for a number that is too large for it."""
    import torch

    dtype = conversion.format.dtype_of(unit)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    made = value.to(wanted)
    if made.dtype != value.dtype and dtype == "fp16" and bool((made.isinf() & ~value.isinf()).any()):
        raise CheckpointError(
            f"{conversion.checkpoint.path}: {unit.module}.{unit.kind} holds {float(value.abs().max()):.4g}, more than "
            "fp16 can hold; expected convert.dtype=bf16 or fp32"
        )
    return made
