"""``mode=convert``: write a checkpoint in another layout; nothing is served."""

from __future__ import annotations

from launcher.checkpoints.export import model as exporting
from launcher.checkpoints.export.folder import Conversion, Wanted
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.types import Json, expanded
from launcher.settings.convert import Convert, Quantize
from launcher.settings.model import Model


def convert(model: Model, settings: Convert) -> int:
    """Convert the checkpoint, or finish what an earlier process began; return the exit code. Raises `UserError`."""
    conversion = prepared(model, settings)
    made = exporting.carry_out(model, conversion, lambda line: to_stderr(f"convert: {line}"))
    kind = conversion.dtype if settings.quantize is Quantize.none else settings.quantize.value
    print(f"convert: {made.folder}: complete, {len(conversion.shards)} files of weights in {kind}")
    return 0


def plan(model: Model, settings: Convert) -> dict[str, Json]:
    """Return what `convert` would do. Raises `UserError` as it does."""
    conversion = prepared(model, settings)
    exporting.check_tokenizer(model, conversion, exporting.WITHOUT)
    return {"mode": "convert: no server is started", **conversion.facts(), "folder": settings.path}


def prepared(model: Model, settings: Convert) -> Conversion:
    """Decide the conversion, and write nothing. Raises `UserError`."""
    if not settings.path:
        raise UserError("convert.path: mode=convert needs the folder to write")
    if not model.path:
        raise UserError("model.path: mode=convert needs a checkpoint; give model.path=<folder>")
    wanted = Wanted(settings.format, settings.dtype.value, settings.shard_gb, settings.quantize)
    return exporting.prepare(model, expanded(settings.path), wanted, settings.tokenizer)
