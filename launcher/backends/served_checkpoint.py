"""The checkpoint in the layout that another program's server reads: as it is, or converted into a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.backends.served_sizes import Sizes
from launcher.backends.server_program import ServerProgram
from launcher.checkpoints.base import Architecture, Checkpoint, Damaged, NotComputed
from launcher.checkpoints.export import model as exporting
from launcher.checkpoints.export.folder import Conversion, Wanted
from launcher.checkpoints.export.gguf_file import FILE
from launcher.checkpoints.export.manifest import is_complete, is_whole
from launcher.checkpoints.gguf.layout import opened as opened_gguf
from launcher.checkpoints.huggingface.foreign import (
    PART,
    check_tokenizer,
    check_weights,
    read_config,
    refuse_missing_parts,
)
from launcher.checkpoints.huggingface.layout import known_architecture
from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import Json, expanded, resolve
from launcher.engines.base import Deployment
from launcher.engines.optimization_status import resolve_dtype
from launcher.settings.convert import Layout
from launcher.settings.model import Dtype, Model

OTHER_WEIGHTS = ("--load-format", "--load_format")
OTHER_TOKENIZER = (
    "--tokenizer", "--tokenizer-path", "--tokenizer-mode", "--tokenizer_mode", "--skip-tokenizer-init",
    "--skip_tokenizer_init", "--custom_tokenizer",
)  # fmt: skip
"""Arguments by which a server reads other files of weights, or another tokenizer, than those that are checked."""

OTHER_CONFIG = (
    "--hf-overrides", "--hf_overrides", "--hf-config-path", "--hf_config_path", "--json-model-override-args",
    "--config", "--extra_llm_api_options",
)  # fmt: skip
"""Arguments by which a server changes ``config.json``, or reads settings of its own that may do so."""

OTHER_SPLIT = ("--enable-dp-attention", "--device")
"""Arguments by which SGLang has fewer ranks share the heads, or fills them up as it does on CPUs."""


@dataclass(frozen=True)
class ServedCheckpoint:
    """What a server's command gets: ``path``, the type to compute in, and the conversion that makes the files.

    ``sizes`` are those that the server splits.
    """

    path: str
    dtype: Dtype
    model: Model
    conversion: Conversion | None = None
    sizes: Sizes = Sizes()

    @property
    def converted_from(self) -> str | None:
        return None if self.conversion is None else self.conversion.checkpoint.layout

    def facts(self) -> dict[str, Json]:
        """Return what a plan shows of the conversion."""
        if self.conversion is None:
            return {}
        state = "there already" if self._is_complete() else "made before the server starts"
        return {"conversion": {**self.conversion.facts(), "folder": self.path, "state": state}}

    def check_tokenizer(self) -> None:
        """Load the tokenizer that a conversion would write. Raises `CheckpointError` as `convert` does."""
        if self.conversion is not None and not self._is_complete():
            exporting.check_tokenizer(self.model, self.conversion)

    def convert(self, progress: Callable[[str], None]) -> None:
        """Make the files unless they are there; a second process that wants the same waits. Raises `UserError`."""
        if self.conversion is None or is_whole(self.conversion.folder, self.conversion.identity):
            return
        exporting.carry_out(self.model, self.conversion, progress, wait=True)

    def _is_complete(self) -> bool:
        assert self.conversion is not None
        return is_complete(self.conversion.folder, self.conversion.identity)


def served_checkpoint(
    deployment: Deployment, server: ServerProgram, cache: Path, device: str, key: str, arguments: Sequence[str] = ()
) -> ServedCheckpoint:
    """Decide what the server gets, from metadata alone; ``arguments`` are those that its user adds.

    Raises `UserError` for a checkpoint that it cannot read.
    """
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
        return _as_it_is(found, model, server, asked, device, {word.partition("=")[0] for word in arguments})
    try:
        checkpoint = exporting.opened(model)
    except NotComputed as error:
        if server.reads != "gguf":
            raise
        raise NotComputed(f"{error}; {key} serves a .gguf file as it is: model.path=<file>.gguf") from error
    dtype = resolve_dtype(asked, Dtype(checkpoint.architecture.dtype), device)
    return _converted(checkpoint, model, server, cache, dtype)


def _on_a_hub(model: Model, server: ServerProgram, asked: Dtype, device: str, key: str) -> ServedCheckpoint:
    """Pass a name on: the server may know it."""
    looks_local = _is_a_path(model.path) or model.path.count("/") != 1
    if looks_local or server.reads != "huggingface":
        raise CheckpointError(f"model.path={model.path}: no such file or folder; {key} needs a checkpoint")
    return ServedCheckpoint(model.path, resolve_dtype(asked, Dtype.auto, device), model)


def _is_a_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


def _is_read(path: Path, server: ServerProgram) -> bool:
    return path.suffix == ".gguf" if server.reads == "gguf" else (path / "config.json").is_file()


def _as_it_is(
    path: Path, model: Model, server: ServerProgram, asked: Dtype, device: str, arguments: set[str]
) -> ServedCheckpoint:
    """Check the files that a server gets unchanged, by names and headers. Raises `CheckpointError`."""
    if server.reads == "gguf":
        opened_gguf(path, model.bounds)
        _check_first_part(path)
        return ServedCheckpoint(str(path), Dtype.auto, model)
    values = read_config(path, model.bounds)
    if not arguments.intersection((*OTHER_WEIGHTS, "--config")):
        check_weights(path, model.bounds)
    changed = bool(arguments.intersection(OTHER_CONFIG))
    found = _architecture(path, model, not changed and not arguments.intersection(OTHER_WEIGHTS))
    if not arguments.intersection((*OTHER_TOKENIZER, "--config")):
        _check_tokenizer(path, model, found)
    sizes = _sizes(values, found, changed, bool(arguments.intersection(OTHER_SPLIT)))
    return ServedCheckpoint(str(path), _dtype(found, server, asked, device), model, sizes=sizes)


def _sizes(values: Mapping[str, Json], found: Architecture | None, changed: bool, is_split_otherwise: bool) -> Sizes:
    """Return what the server splits; nothing where its own arguments decide."""
    if changed:
        return Sizes()
    sizes = Sizes.of_config(values) if found is None else Sizes.of_architecture(found)
    return replace(sizes, heads=None, key_heads=None, width=None) if is_split_otherwise else sizes


def _check_first_part(path: Path) -> None:
    """Raise `CheckpointError` for another part of a split file, which a server gets the first of, and a missing one."""
    part = PART.fullmatch(path.name)
    if part is not None and int(part["number"]) != 1:
        first = f"{part['stem']}-00001-of-{part['count']}.gguf"
        raise CheckpointError(f"{path}: a part of a split file (expected the first: {first})")
    refuse_missing_parts([path])


def _architecture(path: Path, model: Model, weighed: bool) -> Architecture | None:
    """Return what is known of the model; None for one that only the server reads."""
    try:
        return known_architecture(path, model.bounds)
    except Damaged:
        if weighed:
            raise
        return None


def _check_tokenizer(path: Path, model: Model, found: Architecture | None) -> None:
    rows = None if found is None else found.vocab_size
    if model.tokenizer is None:
        check_tokenizer(path, model.bounds, rows)
        return
    named = expanded(model.tokenizer)
    if named.exists():
        check_tokenizer(named, model.bounds, rows)
    elif _is_a_path(model.tokenizer):
        raise CheckpointError(f"model.tokenizer={model.tokenizer}: no such file or folder (expected a tokenizer)")


def _dtype(found: Architecture | None, server: ServerProgram, asked: Dtype, device: str) -> Dtype:
    """Return the type that a server computes in; ``auto`` where only the server knows, as of quantised weights."""
    stored = None if found is None else Dtype(found.dtype)
    if "dtype" not in server.flags:
        return stored or Dtype.auto
    return asked if stored is None else resolve_dtype(asked, stored, device)


def _converted(
    checkpoint: Checkpoint, model: Model, server: ServerProgram, cache: Path, dtype: Dtype
) -> ServedCheckpoint:
    sizes = Sizes.of_architecture(checkpoint.architecture)
    if server.reads == "gguf":
        conversion = exporting.cached(model, cache, Wanted(Layout.gguf, dtype.value))
        return ServedCheckpoint(str(conversion.folder / FILE), dtype, model, conversion, sizes)
    kept = "auto" if "dtype" in server.flags else dtype.value
    chosen = "fp32" if checkpoint.architecture.zero_centered_gamma else kept
    conversion = exporting.cached(model, cache, Wanted(dtype=chosen))
    return ServedCheckpoint(str(conversion.folder), dtype, model, conversion, sizes)
