"""The checkpoint in the layout that another program's server reads: as it is, or converted into a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.backends.server_program import ServerProgram
from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.export import model as exporting
from launcher.checkpoints.export.folder import Conversion, Wanted
from launcher.checkpoints.export.gguf_file import FILE
from launcher.checkpoints.export.manifest import is_complete, is_whole
from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import Json, resolve
from launcher.engines.base import Deployment
from launcher.engines.optimization_status import resolve_dtype
from launcher.settings.convert import Layout
from launcher.settings.model import Dtype, Model


@dataclass(frozen=True)
class ServedCheckpoint:
    """What a server's command gets: ``path``, the type to compute in, and the conversion that makes the files."""

    path: str
    dtype: Dtype
    model: Model
    conversion: Conversion | None = None

    @property
    def converted_from(self) -> str | None:
        return None if self.conversion is None else self.conversion.checkpoint.layout

    def facts(self) -> dict[str, Json]:
        """Return what a plan shows of the conversion."""
        if self.conversion is None:
            return {}
        state = "there already" if self._is_complete() else "made before the server starts"
        return {"conversion": {**self.conversion.facts(), "folder": self.path, "state": state}}

    def convert(self, progress: Callable[[str], None]) -> None:
        """Make the files unless they are there; a second process that wants the same waits. Raises `UserError`."""
        if self.conversion is None or is_whole(self.conversion.folder, self.conversion.identity):
            return
        exporting.carry_out(self.model, self.conversion, progress, wait=True)

    def _is_complete(self) -> bool:
        assert self.conversion is not None
        return is_complete(self.conversion.folder, self.conversion.identity)


def served_checkpoint(
    deployment: Deployment, server: ServerProgram, cache: Path, device: str, key: str
) -> ServedCheckpoint:
    """Decide what the server gets, from metadata alone. Raises `UserError` for a checkpoint that it cannot read."""
    model, asked = deployment.model, deployment.optimizations.dtype
    if not model.path:
        raise UserError(f"model.path: {key} needs a checkpoint; give model.path=<folder>")
    try:
        found = resolve(model.path).absolute()
    except FileNotFoundError as error:
        raise CheckpointError(f"model.path={model.path}: {error}") from None
    if not found.exists() and not model.peft:
        return _on_a_hub(model, server, asked, device, key)
    if _is_read(found, server) and not model.peft:
        return ServedCheckpoint(str(found), _dtype(model, server, asked, device), model)
    checkpoint = exporting.opened(model)
    dtype = resolve_dtype(asked, Dtype(checkpoint.architecture.dtype), device)
    return _converted(checkpoint, model, server, cache, dtype)


def _on_a_hub(model: Model, server: ServerProgram, asked: Dtype, device: str, key: str) -> ServedCheckpoint:
    """Pass a name on: the server may know it."""
    looks_local = model.path.startswith(("/", "./", "../", "~")) or model.path.count("/") != 1
    if looks_local or server.reads != "huggingface":
        raise CheckpointError(f"model.path={model.path}: no such file or folder; {key} needs a checkpoint")
    return ServedCheckpoint(model.path, resolve_dtype(asked, Dtype.auto, device), model)


def _is_read(path: Path, server: ServerProgram) -> bool:
    return path.suffix == ".gguf" if server.reads == "gguf" else (path / "config.json").is_file()


def _dtype(model: Model, server: ServerProgram, asked: Dtype, device: str) -> Dtype:
    """Return the type that a server computes in; ``auto`` where only the server knows, as of a quantised file."""
    if server.reads == "gguf":
        return Dtype.auto
    stored = _stored_dtype(model)
    if "dtype" not in server.flags:
        return stored or Dtype.auto
    return asked if stored is None else resolve_dtype(asked, stored, device)


def _stored_dtype(model: Model) -> Dtype | None:
    """Return the type of the stored weights; None for a model that only the server reads."""
    try:
        return Dtype(exporting.opened(model).architecture.dtype)
    except CheckpointError:
        return None


def _converted(
    checkpoint: Checkpoint, model: Model, server: ServerProgram, cache: Path, dtype: Dtype
) -> ServedCheckpoint:
    if server.reads == "gguf":
        conversion = exporting.cached(model, cache, Wanted(Layout.gguf, dtype.value))
        return ServedCheckpoint(str(conversion.folder / FILE), dtype, model, conversion)
    kept = "auto" if "dtype" in server.flags else dtype.value
    chosen = "fp32" if checkpoint.architecture.zero_centered_gamma else kept
    conversion = exporting.cached(model, cache, Wanted(dtype=chosen))
    return ServedCheckpoint(str(conversion.folder), dtype, model, conversion)
