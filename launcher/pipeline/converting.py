"""``mode=convert``: write a checkpoint in another layout; nothing is served."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoints import detect, load_tokenizer
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.export import folder
from launcher.checkpoints.export.folder import Conversion
from launcher.core.console import to_stderr
from launcher.core.errors import CheckpointError, UserError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json, resolve
from launcher.settings.convert import Convert
from launcher.settings.model import Model


def convert(model: Model, settings: Convert) -> int:
    """Convert the checkpoint, or finish what an earlier process began; return the exit code. Raises `UserError`."""
    conversion = prepared(model, settings)
    tokenizer = _tokenizer(model, conversion) if settings.tokenizer else None
    made = folder.carry_out(conversion, tokenizer, lambda line: to_stderr(f"convert: {line}"))
    print(f"convert: {made.folder}: complete, {len(conversion.shards)} files of weights in {conversion.dtype}")
    return 0


def plan(model: Model, settings: Convert) -> dict[str, Json]:
    """Return what `convert` would do. Raises `UserError` as it does."""
    return {"mode": "convert: no server is started", **prepared(model, settings).facts(), "folder": settings.path}


def check(model: Model, settings: Convert) -> None:
    """Raise `UserError` for what is missing."""
    if not settings.path:
        raise UserError("convert.path: mode=convert needs the folder to write")
    if not model.path:
        raise UserError("model.path: mode=convert needs a checkpoint; give model.path=<folder>")


def prepared(model: Model, settings: Convert) -> Conversion:
    """Decide the conversion, and write nothing."""
    check(model, settings)
    checkpoint = detect(_resolved("model.path", model.path), model.bounds)
    return folder.prepare(
        checkpoint,
        Path(settings.path),
        settings.dtype.value,
        settings.shard_gb,
        _tokenizer_identity(model, settings),
    )


def _tokenizer_identity(model: Model, settings: Convert) -> str | None:
    """Return what tells a tokenizer from the checkpoint's own; None for that one."""
    if not settings.tokenizer:
        return "none"
    if model.tokenizer is None:
        return None
    path = _resolved("model.tokenizer", model.tokenizer)
    return fingerprint(path, path.rglob("*")) if path.is_dir() else fingerprint(path.parent, [path])


def _tokenizer(model: Model, conversion: Conversion) -> Tokenizer:
    """Load the tokenizer that goes with the weights. Raises `CheckpointError` for one of another model."""
    try:
        if model.tokenizer:
            found = load_tokenizer(_resolved("model.tokenizer", model.tokenizer), model.bounds)
        else:
            found = conversion.checkpoint.tokenizer()
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or convert.tokenizer=false to write none") from None
    rows = conversion.checkpoint.architecture.vocab_size
    if found.base_vocab_size > rows:
        raise CheckpointError(
            f"{model.tokenizer or model.path}: its tokenizer has {found.vocab_size} tokens; the model's embedding has "
            f"{rows} rows"
        )
    return found


def _resolved(key: str, path: str) -> Path:
    try:
        return resolve(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{key}={path}: {error}") from error
