"""Opens an adapter of any library, and compares it with the base model that it is to change."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoints.file_names import CONVERSION
from launcher.checkpoints.peft import huggingface, megatron
from launcher.checkpoints.peft.changes import Adapter
from launcher.core.errors import CheckpointError
from launcher.core.files import read_json
from launcher.core.types import resolve
from launcher.settings.model import Bounds

EXPECTED = "the folder of a LoRA, DoRA or IA3 adapter of peft, NeMo 2.0 or Megatron-Bridge"


def open_adapter(name: str, bounds: Bounds, base: Path) -> Adapter:
    """Open the adapter that ``model.peft`` names. Reads metadata only.

    Raises `CheckpointError` also for one that was trained on another model of this machine than ``base``.
    """
    try:
        folder = resolve(name)
    except FileNotFoundError as error:
        raise CheckpointError(f"model.peft={name}: {error}") from error
    if not folder.is_dir():
        problem = (
            f"a file; the adapter is its folder: model.peft={folder.parent}" if folder.is_file() else "no such folder"
        )
        raise CheckpointError(f"model.peft={name}: {problem} (expected {EXPECTED})")
    layout = next((layout for layout in (huggingface, megatron) if layout.matches(folder)), None)
    if layout is None:
        raise CheckpointError(f"model.peft={name}: no adapter in it (expected {EXPECTED})")
    adapter: Adapter = layout.read(folder, bounds)
    _refuse_merged(adapter, base)
    _refuse_other_base(adapter, base, bounds)
    return adapter


def _refuse_merged(adapter: Adapter, base: Path) -> None:
    """Refuse a base that a conversion has merged with this adapter already."""
    record = read_json((base if base.is_dir() else base.parent) / CONVERSION)
    if isinstance(record, dict) and record.get("peft") == adapter.weights_fingerprint():
        raise CheckpointError(
            f"model.peft={adapter.folder}: {base} has it in its weights already, as its {CONVERSION} says; "
            "set model.peft=null"
        )


def _refuse_other_base(adapter: Adapter, base: Path, bounds: Bounds) -> None:
    """Refuse an adapter whose base lies on this machine and has other weights; a name proves nothing.

    A base that is no full path is looked for where transformers looks for it, in the working directory.
    """
    from launcher.checkpoints import detect

    trained_on = Path(adapter.base)
    if not trained_on.exists() or trained_on.resolve() == base.resolve():
        return
    try:
        same = detect(trained_on, bounds).fingerprint() == detect(base, bounds).fingerprint()
    except CheckpointError:  # of a layout that is not read here, so that nothing can be compared
        return
    if not same:
        raise CheckpointError(
            f"model.peft={adapter.folder}: it was trained on {trained_on}, whose files are not those of {base}; "
            "set model.path to its base"
        )
