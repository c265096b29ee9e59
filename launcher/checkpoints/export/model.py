"""The conversion of the checkpoint that the settings name, with the tokenizer that goes with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from launcher.checkpoints import load_tokenizer, open_model
from launcher.checkpoints.base import Checkpoint, NotComputed
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.export import folder
from launcher.checkpoints.export.folder import Conversion, Progress, Wanted
from launcher.checkpoints.export.manifest import Manifest
from launcher.core.errors import CheckpointError, UserError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import resolve
from launcher.settings.model import Model

NO_TOKENIZER = "none"
"""Stands for a conversion of the weights alone."""

WITHOUT = "or convert.tokenizer=false to write none"


def opened(model: Model) -> Checkpoint:
    """Open the checkpoint of a model. Raises `CheckpointError`."""
    try:
        return open_model(_resolved("model.path", model.path), model.bounds, model.peft)
    except NotComputed as refused:
        raise NotComputed(f"{refused}; conversion takes what engine=megatron computes") from refused


def prepare(model: Model, target: Path, wanted: Wanted, with_tokenizer: bool) -> Conversion:
    """Decide the conversion of a model, and write nothing. Raises `UserError` as `folder.prepare` does."""
    _refuse_inside(target, "model.path", model.path)
    if with_tokenizer and model.tokenizer:
        _refuse_inside(target, "model.tokenizer", model.tokenizer)
    chosen = _identity(model) if with_tokenizer else NO_TOKENIZER
    return folder.prepare(opened(model), target, wanted, chosen)


def cached(model: Model, cache: Path, wanted: Wanted) -> Conversion:
    """Decide a conversion in a folder of ``cache`` that is named after what it is made of. Raises `UserError`."""
    made_of = f"{opened(model).fingerprint()} {_identity(model)}"
    name = f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}-{wanted.layout.value}-{wanted.dtype}"
    return prepare(model, cache / name, wanted, with_tokenizer=True)


def carry_out(model: Model, conversion: Conversion, progress: Progress, wait: bool = False) -> Manifest:
    """Write the folder. Another process that writes it is waited for with ``wait``, else refused."""
    written = tokenizer(model, conversion, None if wait else WITHOUT)
    return folder.carry_out(conversion, written, progress, wait)


def check_tokenizer(model: Model, conversion: Conversion, advice: str | None = None) -> None:
    """Raise `CheckpointError` as `tokenizer` does."""
    if (found := tokenizer(model, conversion, advice)) is not None:
        found.close()


def _refuse_inside(target: Path, key: str, source: str) -> None:
    """Raise `UserError` for a target in a source: files there make the source another one to what reads it later."""
    if _resolved(key, source).resolve() in target.resolve().parents:
        raise UserError(f"convert.path={target}: inside {key}={source}, which would change; choose a folder outside it")


def _identity(model: Model) -> str | None:
    """Return what tells a tokenizer from the checkpoint's own; None for that one."""
    if model.tokenizer is None:
        return None
    path = _resolved("model.tokenizer", model.tokenizer)
    return fingerprint(path, path.rglob("*")) if path.is_dir() else fingerprint(path.parent, [path])


def tokenizer(model: Model, conversion: Conversion, advice: str | None = None) -> Tokenizer | None:
    """Load the tokenizer that goes with the weights; None for a conversion of the weights alone.

    Raises `CheckpointError` where there is none, with the ``advice``, and for one of another model.
    """
    if conversion.identity.tokenizer == NO_TOKENIZER:
        return None
    try:
        if model.tokenizer:
            found = load_tokenizer(_resolved("model.tokenizer", model.tokenizer), model.bounds)
        else:
            found = conversion.checkpoint.tokenizer()
    except CheckpointError as error:
        raise CheckpointError(f"{error}, {advice}" if advice else str(error)) from None
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
